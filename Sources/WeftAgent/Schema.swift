import GRDB

package enum Schema {
  /// Each step stays as it is once it was released; changes are further steps.
  package static var migrator: DatabaseMigrator {
    var migrator = DatabaseMigrator()
    migrator.registerMigration("1") { db in
      try db.execute(
        sql: """
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
          """)
    }
    migrator.registerMigration("2") { db in
      // Queues of a TAP interface; NULL: a veth.
      try db.execute(sql: "ALTER TABLE attachment ADD COLUMN tap_queues INTEGER")
    }
    migrator.registerMigration("3") { db in
      // A database without this is new: what is on the node already is to be taken into it.
      try db.execute(
        sql: "INSERT INTO setting (name, value) SELECT 'begun', '1' WHERE EXISTS (SELECT 1 FROM identifier)")
    }
    migrator.registerMigration("states") { db in
      // Seconds since 1970.
      try db.execute(
        sql: """
          ALTER TABLE attachment ADD COLUMN state TEXT NOT NULL DEFAULT 'reserved';
          ALTER TABLE attachment ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
          UPDATE attachment SET since = created, state = CASE
            WHEN wanted AND reason IS NULL THEN 'active' WHEN wanted THEN 'failed' WHEN origin = 'port' THEN 'disabled' ELSE 'reserved' END;
          """)
    }
    migrator.registerMigration("vlan") { db in
      // Of a port that is a VLAN of another one: the host interface of that, and the VLAN; NULL: it has its own.
      try db.execute(
        sql: """
          ALTER TABLE attachment ADD COLUMN parent TEXT;
          ALTER TABLE attachment ADD COLUMN vlan INTEGER;
          CREATE UNIQUE INDEX attachment_vlan ON attachment (parent, vlan);
          """)
    }
    Store.registerBandwidth(&migrator)
    migrator.registerMigration("vhost-user") { db in
      // Attachments whose ports are vhost-user sockets.
      try db.execute(
        sql: """
          CREATE TABLE vhost (
            attachment TEXT PRIMARY KEY REFERENCES attachment (id) ON DELETE CASCADE, socket TEXT NOT NULL UNIQUE,
            front_end_listens BOOLEAN NOT NULL
          ) WITHOUT ROWID;
          """)
    }
    return migrator
  }
}
