-- A database of the agent's first schema, with one attachment: what a later agent must be able to open.
CREATE TABLE attachment (
  id TEXT PRIMARY KEY, container_id TEXT NOT NULL, interface TEXT NOT NULL, netns TEXT NOT NULL,
  network TEXT NOT NULL, host_interface TEXT NOT NULL UNIQUE, mac TEXT NOT NULL, vm_uuid TEXT NOT NULL,
  pod_name TEXT, pod_namespace TEXT, pod_uid TEXT, origin TEXT NOT NULL, wanted BOOLEAN NOT NULL,
  reason TEXT, created INTEGER NOT NULL,
  UNIQUE (container_id, interface), UNIQUE (network, mac)
);
CREATE INDEX attachment_vm ON attachment (vm_uuid);
CREATE INDEX attachment_pod ON attachment (pod_name);
-- No two attachments of a network have one address.
CREATE TABLE address (
  network TEXT NOT NULL, address TEXT NOT NULL,
  attachment TEXT NOT NULL REFERENCES attachment (id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL, PRIMARY KEY (network, address)
) WITHOUT ROWID;
CREATE INDEX address_attachment ON address (attachment);
-- The address given out last, so that a restart does not begin at the front again.
CREATE TABLE pool (
  network TEXT NOT NULL, prefix TEXT NOT NULL, last TEXT NOT NULL, PRIMARY KEY (network, prefix)
) WITHOUT ROWID;
-- The compute driver's ports, as they were posted.
CREATE TABLE port (
  id TEXT PRIMARY KEY REFERENCES attachment (id) ON DELETE CASCADE, body TEXT NOT NULL, time TEXT NOT NULL
);
-- Indexes in the forwarder's tables. Retired: its entry may still be in the forwarder, until a sweep.
CREATE TABLE identifier (
  kind TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL, retired BOOLEAN NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, name), UNIQUE (kind, number)
) WITHOUT ROWID;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY);
INSERT INTO grdb_migrations VALUES ('1');
INSERT INTO attachment VALUES (
  'b6a7e3a0-1111-4111-8111-000000000001', 'old-container', 'eth0', '/run/netns/old', 'blue', 'weftb6a7e3a01111',
  '02:b6:a7:e3:a0:11', 'b6a7e3a0-1111-4111-8111-0000000000aa', 'old', 'default', NULL, 'cni', 0, NULL, 1700000000);
INSERT INTO address VALUES ('blue', '10.1.1.77', 'b6a7e3a0-1111-4111-8111-000000000001', 0);
INSERT INTO address VALUES ('blue', 'fd00:1::1:77', 'b6a7e3a0-1111-4111-8111-000000000001', 1);
INSERT INTO pool VALUES ('blue', '10.1.0.0/16', '10.1.1.77');
INSERT INTO identifier VALUES ('interface', 'fabric', 0, 0);
INSERT INTO setting VALUES ('generation', '1700000000000000000');
