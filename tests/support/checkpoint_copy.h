#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "tests/support/temp_folder.h"

// Copies of the stored models, to be damaged.
namespace tandem::test {

inline const std::filesystem::path kGolden = TANDEM_SOURCE_DIR "/tests/golden";
inline const std::filesystem::path kDemo = TANDEM_SOURCE_DIR "/model/demo";

// A tensor held in memory, for making damaged copies of good checkpoints.
struct Held {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, Held>;

inline Tensors Load(const std::filesystem::path& model_dir) {
  const SafetensorsFile file(model_dir / "model.safetensors");
  Tensors tensors;
  for (const SafetensorsEntry& e : file.header().tensors) {
    tensors[e.name] = {e.dtype, e.shape, file.Bytes(e.name)};
  }
  return tensors;
}

inline void Save(const std::filesystem::path& path, const Tensors& tensors) {
  std::vector<SafetensorsTensor> views;
  for (const auto& [name, t] : tensors) views.push_back({name, t.dtype, t.shape, t.bytes});
  WriteSafetensors(path, views);
}

inline Held Zeros(DType dtype, std::vector<std::int64_t> shape) {
  std::size_t bytes = BytesOf(dtype);
  for (const std::int64_t dim : shape) bytes *= static_cast<std::size_t>(dim);
  return {dtype, std::move(shape), std::vector<std::byte>(bytes)};
}

// A copy of a model that a test may spoil: tensors and config, saved by Open.
struct ModelCopy {
  explicit ModelCopy(const std::filesystem::path& from)
      : tensors(Load(from)), config(nlohmann::json::parse(ReadText(from / "config.json"))) {}

  Model Open() const {
    folder.Write("config.json", config.dump());
    Save(folder / "model.safetensors", tensors);
    return OpenCheckpoint(folder.path().string());
  }

  TempFolder folder;
  Tensors tensors;
  nlohmann::json config;
};

inline std::vector<std::byte> ReadAll(const Model& model, const TensorInfo& tensor, Piece piece) {
  const Extent& extent = piece == Piece::kData ? tensor.data : tensor.scale;
  std::vector<std::byte> bytes(extent.bytes);
  model.source->Read(tensor, piece, 0, bytes);
  return bytes;
}

}  // namespace tandem::test
