#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/tensor_source.h"

namespace tandem {

// Which rows of the source's tensor a tensor consists of.
enum class RowMap : std::uint8_t {
  kUntouched,       // its bytes, as they are
  kSame,            // its rows, in another format
  kInterleave,      // within each head, row i of the first half is followed by row i of the second
  kKeysTransposed,  // kv_b's rows for keys: row h R + r holds column r of head h
  kValues,          // kv_b's rows for values
};

// Reads a source's tensors in other formats: decodes the rows that a read covers and quantises
// them. Reads of whole rows do no work twice; others are right as well. Memory: a few MiB a reader.
class QuantizedSource final : public TensorSource {
 public:
  struct From {
    std::size_t tensor;  // index into the source's list
    RowMap map;
  };
  // `from` tells of each tensor of `list` where in the model `inner` it comes from.
  QuantizedSource(const Model& inner, TensorList list, std::vector<From> from);

  void Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
            std::span<std::byte> dst) const override;

 private:
  void Quantize(const TensorInfo& tensor, const From& from, std::int64_t row0, std::int64_t rows,
                std::byte* out) const;
  void FillRows(const TensorInfo& tensor, const From& from, std::int64_t row0, std::int64_t rows,
                float* out) const;
  void FillInterleaved(const TensorInfo& from, std::int64_t row0, std::int64_t rows,
                       float* out) const;
  void FillKeys(const TensorInfo& from, std::int64_t row0, std::int64_t rows, float* out) const;
  void FillValues(const TensorInfo& from, std::int64_t row0, std::int64_t rows, float* out) const;

  Config config_;
  std::shared_ptr<const TensorSource> inner_;
  TensorList inner_list_;
  TensorList list_;
  std::vector<From> from_;  // of list_, in its order
};

}  // namespace tandem
