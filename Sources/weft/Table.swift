/// One column of a table: its heading for people, its key for programs, and where its value comes from.
struct Column<Row> {
  let heading: String?
  let key: String?
  let value: (Row) -> Value

  /// In both outputs: the key is the heading in lower case with hyphens for spaces.
  init(_ heading: String, _ value: @escaping (Row) -> Value) {
    self.heading = heading
    key = String(heading.lowercased().map { $0 == " " ? "-" : $0 })
    self.value = value
  }

  /// Only in the table for people.
  static func shown(_ heading: String, _ value: @escaping (Row) -> Value) -> Column {
    Column(heading: heading, key: nil, value)
  }

  /// Only in JSON.
  static func keyed(_ key: String, _ value: @escaping (Row) -> Value) -> Column {
    Column(heading: nil, key: key, value)
  }

  init(heading: String?, key: String?, _ value: @escaping (Row) -> Value) {
    self.heading = heading
    self.key = key
    self.value = value
  }
}

/// Rows printed as aligned columns or as JSON: one declaration serves both.
struct Table<Row> {
  let columns: [Column<Row>]
  var rows: [Row]

  /// One object a row.
  var objects: [Value] {
    rows.map { row in
      .object(columns.compactMap { column in column.key.map { Value.Member(key: $0, value: column.value(row)) } })
    }
  }

  /// An array with one object a row, one line each.
  var json: String {
    let objects = objects.map(\.json)
    return objects.isEmpty ? "[]\n" : "[\n  \(objects.joined(separator: ",\n  "))\n]\n"
  }

  /// A heading line and a line a row; numbers stand to the right. Nothing but the heading when there are no rows.
  var text: String {
    let shown = columns.filter { $0.heading != nil }
    let cells = rows.map { row in shown.map { $0.value(row) } }
    let headings = shown.map { ($0.heading ?? "").uppercased() }
    let texts = [headings] + cells.map { $0.map(\.shown) }
    let widths = shown.indices.map { column in texts.map { $0[column].count }.max() ?? 0 }
    let isRight = shown.indices.map { column in
      cells.contains { $0[column].isNumber } && cells.allSatisfy { $0[column].isNumber || $0[column] == .nothing }
    }
    return texts.map { line in
      var result = ""
      for column in shown.indices {
        let padding = String(repeating: " ", count: widths[column] - line[column].count)
        if column > 0 { result += "  " }
        if isRight[column] {
          result += padding + line[column]
        } else {
          // What nobody sees at the end of a line is not written.
          result += line[column] + (column == shown.count - 1 ? "" : padding)
        }
      }
      return result + "\n"
    }.joined()
  }
}
