#include "model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory/error.h"
#include "model/json.h"
#include "model/problems.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using WeightMap = std::map<std::string, std::string, std::less<>>;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";
constexpr std::uint64_t kMaxIndexBytes = 256 << 20;  // V3's has 9 MB
constexpr std::size_t kMaxShards = 10000;
// FP8 is read in pieces that are still in the second-level cache when they are scanned.
constexpr std::size_t kScanBytes = 256 << 10;

// There also when it is a link that leads nowhere: opening it then says what is wrong.
bool IsThere(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

std::string Joined(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Says what a folder without the two known names holds instead.
[[noreturn]] void ThrowNoWeights(const fs::path& dir) {
  std::string pickle;
  std::string shard;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string extension = entry.path().extension().string();
    const std::string name = entry.path().filename().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") pickle = name;
    if (extension == ".safetensors") shard = name;
  }
  if (!shard.empty()) {
    Throw<CheckpointError>("{}: has '{}' but neither {} nor {}: download the index as well",
                           dir.string(), shard, kSingleName, kIndexName);
  }
  if (!pickle.empty()) {
    Throw<CheckpointError>(
        "{}: has only pickle weights ('{}'), which can run code and are never opened; convert the "
        "model to safetensors, or download its safetensors files",
        dir.string(), pickle);
  }
  Throw<CheckpointError>("{}: has no weights: expected {} or {}", dir.string(), kSingleName,
                         kIndexName);
}

WeightMap ReadIndex(const fs::path& dir) {
  const File file = File::OpenInFolder(dir, kIndexName);
  const JsonDocument document(ReadWholeFile(file, kMaxIndexBytes), file.path());
  const auto map = JsonFields(document.Object(), file.path()).Object("weight_map");
  if (!map) Throw<CheckpointError>("{}: has no weight_map", file.path());
  WeightMap weight_map;
  for (const auto& [tensor, value] : map->all()) {
    std::string_view shard;
    if (value.get(shard) != simdjson::SUCCESS || !IsPlainFileName(shard)) {
      Throw<CheckpointError>("{}: expected the name of a file in the model folder, found {}",
                             map->Where(tensor), Shown(value));
    }
    weight_map.emplace(tensor, shard);
  }
  if (weight_map.empty()) Throw<CheckpointError>("{}: weight_map is empty", file.path());
  return weight_map;
}

std::vector<std::string> ShardNames(const WeightMap& weight_map, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [tensor, shard] : weight_map) names.push_back(shard);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.size() > kMaxShards) {
    Throw<CheckpointError>("{}: names {} files, expected at most {}", where, names.size(),
                           kMaxShards);
  }
  return names;
}

// Matches what a config calls for with what the files hold.
class Matcher {
 public:
  Matcher(const Config& config, const Checkpoint& checkpoint)
      : config_(config), checkpoint_(checkpoint) {}

  TensorList Match(const std::string& model_dir) {
    // bf16 is a stand-in: names and shapes are the same for all types.
    const TensorList expected = ExpectedTensors(config_, DType::kBF16);
    for (const TensorInfo& tensor : expected.all()) MatchTensor(tensor);
    ThrowIfAny(model_dir, {{"missing tensors", std::move(missing_)},
                           {"tensors of the wrong shape", std::move(shapes_)},
                           {"tensors of a type that cannot be used", std::move(types_)},
                           {"FP8 tensors without usable scales", std::move(scales_)}});
    AddMtp();
    return TensorList(std::move(found_));
  }

 private:
  const Checkpoint::Located* Find(std::string_view name) const {
    const auto at = checkpoint_.tensors().find(name);
    return at == checkpoint_.tensors().end() ? nullptr : &at->second;
  }

  static Extent ExtentOf(const Checkpoint::Located& located) {
    return {located.file, located.entry.offset, located.entry.bytes};
  }

  void MatchTensor(TensorInfo tensor) {
    const Checkpoint::Located* located = Find(tensor.name);
    if (located == nullptr) return missing_.push_back(tensor.name);
    const SafetensorsEntry& entry = located->entry;
    if (entry.shape != tensor.shape) {
      return shapes_.push_back(fmt::format("{}: expected {}, found {}", tensor.name,
                                           Joined(tensor.shape), Joined(entry.shape)));
    }
    if (!IsUsable(tensor, entry)) return;
    tensor.dtype = entry.dtype;
    tensor.data = ExtentOf(*located);
    if (tensor.dtype == DType::kF8E4M3 && !MatchScale(&tensor)) return;
    found_.push_back(std::move(tensor));
  }

  bool IsUsable(const TensorInfo& tensor, const SafetensorsEntry& entry) {
    const bool may_be_fp8 = ProjectionPart(tensor.part);
    const bool fp8 = entry.dtype == DType::kF8E4M3;
    if (IsWeightFormat(entry.dtype) && (!fp8 || may_be_fp8)) return true;
    types_.push_back(fmt::format("{}: expected F32, BF16{}, found {}", tensor.name,
                                 may_be_fp8 ? ", F16 or F8_E4M3" : " or F16", entry.dtype_name));
    return false;
  }

  static bool ProjectionPart(Part part) {
    return part >= Part::kQ && part <= Part::kDown && part != Part::kQANorm &&
           part != Part::kKvANorm;
  }

  bool MatchScale(TensorInfo* tensor) {
    const std::string name = tensor->name + "_scale_inv";
    const std::vector<std::int64_t> shape{tensor->scale_rows(), tensor->scale_cols()};
    const Checkpoint::Located* located = Find(name);
    if (located == nullptr) {
      scales_.push_back(fmt::format("{}: {} is missing", tensor->name, name));
      return false;
    }
    const SafetensorsEntry& entry = located->entry;
    if (entry.shape != shape || entry.dtype != DType::kF32) {
      scales_.push_back(fmt::format("{}: expected F32 {}, found {} {}", name, Joined(shape),
                                    entry.dtype_name, Joined(entry.shape)));
      return false;
    }
    tensor->has_scale = true;
    tensor->scale = ExtentOf(*located);
    return true;
  }

  // The layers after the last are for multi-token prediction. They are listed, so that they can be
  // reported, and not loaded: whatever they hold is let through.
  void AddMtp() {
    for (std::int64_t i = 0; i < config_.num_nextn_predict_layers; ++i) {
      const std::int64_t layer = config_.num_hidden_layers + i;
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      for (auto at = checkpoint_.tensors().lower_bound(prefix);
           at != checkpoint_.tensors().end() && at->first.compare(0, prefix.size(), prefix) == 0;
           ++at) {
        AddMtpTensor(at->first, at->second, static_cast<int>(layer));
      }
    }
  }

  void AddMtpTensor(const std::string& name, const Checkpoint::Located& located, int layer) {
    if (name.ends_with("_scale_inv") && Find(name.substr(0, name.size() - 10)) != nullptr) return;
    TensorInfo tensor;
    tensor.name = name;
    tensor.shape = located.entry.shape;
    tensor.dtype = located.entry.dtype;
    tensor.role = Role::kMtp;
    tensor.layer = layer;
    tensor.data = ExtentOf(located);
    if (const Checkpoint::Located* scale = Find(name + "_scale_inv")) {
      tensor.has_scale = true;
      tensor.scale = ExtentOf(*scale);
    }
    found_.push_back(std::move(tensor));
  }

  const Config& config_;
  const Checkpoint& checkpoint_;
  std::vector<TensorInfo> found_;
  std::vector<std::string> missing_, shapes_, types_, scales_;
};

void CheckScales(const TensorInfo& tensor, std::uint64_t offset, std::span<const std::byte> bytes) {
  TANDEM_CHECK(offset % sizeof(float) == 0 && bytes.size() % sizeof(float) == 0);
  for (std::size_t i = 0; i < bytes.size(); i += sizeof(float)) {
    float scale = 0;
    std::memcpy(&scale, bytes.data() + i, sizeof(scale));
    if (!std::isfinite(scale)) {
      Throw<CheckpointError>("tensor '{}': scale {} is {}: the file is damaged, download it again",
                             tensor.name, (offset + i) / sizeof(float), scale);
    }
  }
}

void CheckCodes(const TensorInfo& tensor, const std::string& file, std::uint64_t offset,
                std::span<const std::byte> codes) {
  const std::size_t at = FindFp8Nan(codes);
  if (at == codes.size()) return;
  const auto element = static_cast<std::int64_t>(offset + at);
  Throw<CheckpointError>(
      "{}: tensor '{}': the weight at [{}, {}] is NaN: the file is damaged, "
      "download it again",
      file, tensor.name, element / tensor.cols(), element % tensor.cols());
}

// 7 bits that are all ones carry into the top bit when 1 is added, and no carry leaves its byte.
// The size is fixed and there is no early exit, so the compiler does this 16 codes at a time.
template <std::size_t kBytes>
bool BlockHasNan(const std::byte* codes) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  std::uint64_t top_bits = 0;
  for (std::size_t i = 0; i < kBytes; i += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, codes + i, sizeof(word));
    top_bits |= (word & 0x7F * kOnes) + kOnes;
  }
  return (top_bits & 0x80 * kOnes) != 0;
}

}  // namespace

std::size_t FindFp8Nan(std::span<const std::byte> codes) {
  constexpr std::size_t kBlock = 4096;
  std::size_t begin = 0;
  for (; codes.size() - begin >= kBlock; begin += kBlock) {
    if (BlockHasNan<kBlock>(codes.data() + begin)) break;
  }
  const auto is_nan = [](std::byte code) { return (code & std::byte{0x7F}) == std::byte{0x7F}; };
  const auto rest = codes.subspan(begin);
  return begin +
         static_cast<std::size_t>(std::find_if(rest.begin(), rest.end(), is_nan) - rest.begin());
}

Checkpoint::Checkpoint(const fs::path& model_dir) {
  if (IsThere(model_dir / kIndexName)) {
    OpenIndex(model_dir);
  } else if (IsThere(model_dir / kSingleName)) {
    OpenShards(model_dir, {kSingleName});
    CollectTensors();
  } else {
    ThrowNoWeights(model_dir);
  }
}

void Checkpoint::OpenIndex(const fs::path& model_dir) {
  const WeightMap weight_map = ReadIndex(model_dir);
  OpenShards(model_dir, ShardNames(weight_map, (model_dir / kIndexName).string()));
  CollectTensors();
  CheckIndex(weight_map);
}

void Checkpoint::OpenShards(const fs::path& model_dir, const std::vector<std::string>& names) {
  std::vector<std::string> missing;
  for (const std::string& name : names) {
    if (!IsThere(model_dir / name)) missing.push_back(name);
  }
  ThrowIfAny(model_dir.string(), {{"missing shards that the index names", missing}});
  for (const std::string& name : names) files_.push_back(File::OpenInFolder(model_dir, name));
}

void Checkpoint::CollectTensors() {
  std::vector<std::string> doubled;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    for (SafetensorsEntry& entry : ReadSafetensorsHeader(files_[i]).tensors) {
      const std::string name = entry.name;
      const auto [at, added] = tensors_.try_emplace(name, Located{static_cast<int>(i), {}});
      if (added) {
        at->second.entry = std::move(entry);
      } else {
        doubled.push_back(fmt::format("{} ({} and {})", name,
                                      files_[static_cast<std::size_t>(at->second.file)].path(),
                                      files_[i].path()));
      }
    }
  }
  ThrowIfAny("checkpoint", {{"tensors in two shards", doubled}});
}

void Checkpoint::CheckIndex(const WeightMap& weight_map) const {
  std::vector<std::string> lacking;
  for (const auto& [tensor, shard] : weight_map) {
    const auto at = tensors_.find(tensor);
    const bool there =
        at != tensors_.end() &&
        fs::path(files_[static_cast<std::size_t>(at->second.file)].path()).filename() == shard;
    if (!there) lacking.push_back(fmt::format("{} ({})", tensor, shard));
  }
  ThrowIfAny(kIndexName, {{"tensors that are not in the shard that the index names", lacking}});
}

void Checkpoint::Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
                      std::span<std::byte> dst) const {
  const Extent& extent = piece == Piece::kData ? tensor.data : tensor.scale;
  TANDEM_CHECK(extent.file >= 0 && static_cast<std::size_t>(extent.file) < files_.size());
  TANDEM_CHECK(offset <= extent.bytes && dst.size() <= extent.bytes - offset);
  const File& file = files_[static_cast<std::size_t>(extent.file)];
  if (piece == Piece::kScale || tensor.dtype != DType::kF8E4M3) {
    file.PReadExact(extent.offset + offset, dst);
    if (piece == Piece::kScale) CheckScales(tensor, offset, dst);
    return;
  }
  for (std::size_t done = 0; done < dst.size(); done += kScanBytes) {
    const auto part = dst.subspan(done, std::min(kScanBytes, dst.size() - done));
    file.PReadExact(extent.offset + offset + done, part);
    CheckCodes(tensor, file.path(), offset + done, part);
  }
}

Model OpenCheckpoint(const std::string& model_dir) {
  Model model;
  model.path = model_dir;
  model.config = ReadConfig(model_dir);
  const auto checkpoint = std::make_shared<const Checkpoint>(model_dir);
  model.tensors = Matcher(model.config, *checkpoint).Match(model_dir);
  model.source = checkpoint;
  std::error_code error;
  const fs::path real = fs::canonical(model_dir, error);
  model.name = (error ? fs::path(model_dir) : real).filename().string();
  return model;
}

}  // namespace tandem
