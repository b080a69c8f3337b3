#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/tensor_list.h"

namespace tandem {

enum class Piece : std::uint8_t { kData, kScale };

// Where weights come from: a checkpoint on disk or a generator.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // Fills dst with the bytes [offset, offset + dst.size()) of the tensor's data or scales.
  // Thread-safe. Throws SystemError (kIo) with file and offset when a read fails or is short, and
  // CheckpointError if FP8 data holds a NaN (0x7F, 0xFF): such a weight is damaged.
  virtual void Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
                    std::span<std::byte> dst) const = 0;
};

// A model that can be planned and loaded.
struct Model {
  std::string name;  // folder name, general.name of a GGUF file, or the synthetic spec
  std::string path;  // folder or GGUF file, empty for a synthetic model
  Config config;
  TensorList tensors;
  std::shared_ptr<const TensorSource> source;
  std::vector<std::string> warnings;  // what is odd about its files but harmless, a line each
};

// Opens a folder in the Hugging Face layout: config.json, then one model.safetensors or shards with
// model.safetensors.index.json. Reads headers only. Every tensor that the config calls for must be
// there with its shape and a usable dtype; all that is missing is named in one CheckpointError.
Model OpenCheckpoint(const std::string& model_dir);

// A model of a published shape with random weights made on the fly, from a spec such as
// "deepseek-v2-lite:layers=8:dtype=bf16". Bytes are a pure function of tensor and offset.
// Throws ConfigError naming the known shapes and options.
Model OpenSynthetic(const std::string& spec);

}  // namespace tandem
