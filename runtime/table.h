#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

// Text in columns, for a person to read. Cells of columns named in `right` are set to the right.
class Table {
 public:
  enum class Align : std::uint8_t { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns);
  void Add(std::vector<std::string> row);  // as many cells as columns
  std::string ToText() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "671.03 B", "2.40 M" parameters
std::string FormatCount(std::int64_t count);

}  // namespace tandem
