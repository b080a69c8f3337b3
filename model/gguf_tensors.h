#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/file.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/tensor_list.h"
#include "model/tensor_source.h"

namespace tandem {

struct GgufTensors {
  TensorList list;
  // By layer, the type in the file of a joint attn_kv_b in a block format; kOther where there is
  // none. Absorbed attention multiplies with a part of that matrix and with another's transpose, of
  // which blocks along rows serve only one: such a matrix is offered as F16 and decoded on reading.
  std::vector<DType> joint_kv_b;
};

// Every tensor that the config calls for, by its name in the file. The experts of a layer are one
// tensor there, of which each becomes a tensor of its own. All that is missing, or has another
// shape or a type that does not load, is named in one CheckpointError.
GgufTensors MatchGgufTensors(const Gguf& gguf, const Config& config);

// The tensors of GGUF files as the model has them: rows that the conversion put into another order
// are put back, so that a reader cannot tell the files from a checkpoint. Reads with pread.
class GgufSource final : public TensorSource {
 public:
  GgufSource(std::vector<File> files, const Config& config, std::vector<DType> joint_kv_b);

  void Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
            std::span<std::byte> dst) const override;

 private:
  const File& FileOf(const TensorInfo& tensor) const;
  void ReadRoped(const TensorInfo& tensor, std::uint64_t offset, std::span<std::byte> dst) const;
  void ReadDecoded(const TensorInfo& tensor, DType stored, std::uint64_t offset,
                   std::span<std::byte> dst) const;

  std::vector<File> files_;
  std::int64_t interleaved_head_dim_ = 0;  // of q and k in `deepseek` files; 0 elsewhere
  std::vector<DType> joint_kv_b_;
};

}  // namespace tandem
