/// Entries by key, each in a numbered slot that it keeps as long as it is there, so that a table can be read piece by
/// piece while it changes.
struct SlotStore<Key: Hashable, Value> {
  struct Entry {
    let key: Key
    var value: Value
    /// Of the last command that set it.
    var generation: UInt64
    /// Entries of other tables that refer to this one.
    var uses = 0
  }

  private var slots: [Entry?] = []
  private var numbers: [Key: Int] = [:]
  private var free: [Int] = []

  var count: Int { numbers.count }

  subscript(key: Key) -> Entry? {
    guard let number = numbers[key] else { return nil }
    return slots[number]
  }

  func contains(_ key: Key) -> Bool { numbers[key] != nil }

  /// Sets a value; the uses stay.
  mutating func set(_ key: Key, _ value: Value, generation: UInt64) {
    if let number = numbers[key] {
      slots[number]?.value = value
      slots[number]?.generation = generation
      return
    }
    let entry = Entry(key: key, value: value, generation: generation)
    if let number = free.popLast() {
      slots[number] = entry
      numbers[key] = number
    } else {
      numbers[key] = slots.count
      slots.append(entry)
    }
  }

  /// Changes a value in place.
  mutating func update(_ key: Key, _ body: (inout Value) -> Void) {
    guard let number = numbers[key], slots[number] != nil else { return }
    body(&slots[number]!.value)
  }

  mutating func renew(_ key: Key, generation: UInt64) {
    guard let number = numbers[key] else { return }
    slots[number]?.generation = generation
  }

  mutating func use(_ key: Key, _ change: Int) {
    guard let number = numbers[key] else { return }
    slots[number]?.uses += change
  }

  mutating func remove(_ key: Key) {
    guard let number = numbers.removeValue(forKey: key) else { return }
    slots[number] = nil
    free.append(number)
  }

  /// Up to `limit` entries from slot `cursor` on; the slot to go on from, 0 when that was all.
  func read(from cursor: Int, limit: Int, _ body: (Entry) -> Void) -> Int {
    var slot = cursor
    var left = limit
    while slot < slots.count, left > 0 {
      if let entry = slots[slot] {
        body(entry)
        left -= 1
      }
      slot += 1
    }
    return slot < slots.count ? slot : 0
  }

  /// Keys of the entries that an older generation left and nothing refers to.
  func stale(before generation: UInt64) -> [Key] {
    slots.compactMap { entry in
      guard let entry, entry.generation < generation, entry.uses == 0 else { return nil }
      return entry.key
    }
  }
}
