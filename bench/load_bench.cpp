// Loading against the machine's own limit: writes a checkpoint of V2-Lite's shape to a folder,
// brings it into the page cache, and then, in alternation, loads it with the engine's own loader
// (host memory, everything on the CPU) and reads the same file with plain preads into one small
// buffer per thread, by one thread (what dd does) and by as many as the loader uses.
//
//   load_bench FOLDER [LAYERS]      the folder needs room for about 1.2 GiB a layer
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>
#include <vector>

#include "memory/error.h"
#include "memory/file.h"
#include "placement/planner.h"
#include "runtime/clock.h"
#include "runtime/weights.h"

namespace tandem {
namespace {

constexpr int kRepetitions = 5;
constexpr std::uint64_t kBlock = std::uint64_t{4} << 20;

void WriteString(std::ofstream& out, const std::string& s) {
  out.write(s.data(), static_cast<std::streamsize>(s.size()));
}

// The safetensors file is written tensor by tensor: it is larger than memory should hold twice.
void WriteTensors(const Model& model, const std::filesystem::path& path) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (const TensorInfo& t : model.tensors.all()) {
    std::string shape;
    for (std::int64_t n : t.shape) shape += fmt::format("{}{}", shape.empty() ? "" : ",", n);
    header += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          offset == 0 ? "" : ",", t.name, Name(t.dtype), shape, offset,
                          offset + t.data.bytes);
    offset += t.data.bytes;
  }
  header += "}";
  std::ofstream out(path, std::ios::binary);
  const std::uint64_t length = header.size();
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  WriteString(out, header);
  std::vector<std::byte> piece(kBlock);
  for (const TensorInfo& t : model.tensors.all()) {
    for (std::uint64_t at = 0; at < t.data.bytes; at += kBlock) {
      const std::uint64_t n = std::min(kBlock, t.data.bytes - at);
      model.source->Read(t, Piece::kData, at, {piece.data(), n});
      out.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(n));
    }
  }
  if (!out.flush())
    throw SystemError(fmt::format("{}: could not be written", path.string()), ExitCode::kIo);
}

void WriteConfig(std::int64_t layers, const std::filesystem::path& path) {
  std::ofstream out(path);
  WriteString(out, fmt::format(R"({{"model_type":"deepseek_v2","hidden_size":2048,
"num_hidden_layers":{},"num_attention_heads":16,"num_key_value_heads":16,"q_lora_rank":null,
"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
"intermediate_size":10944,"moe_intermediate_size":1408,"n_routed_experts":64,"n_shared_experts":2,
"num_experts_per_tok":6,"first_k_dense_replace":1,"moe_layer_freq":1,"topk_method":"greedy",
"scoring_func":"softmax","norm_topk_prob":false,"routed_scaling_factor":1.0,"vocab_size":102400,
"max_position_embeddings":4096,"rms_norm_eps":1e-6,"rope_theta":10000,"hidden_act":"silu"}})",
                               layers));
}

double ReadPlain(const std::filesystem::path& path, unsigned threads) {
  const File file = File::Open(path);
  const std::uint64_t size = file.size();
  const double start = Now();
  std::vector<std::jthread> readers;
  for (unsigned i = 0; i < threads; ++i) {
    readers.emplace_back([&, i] {
      std::vector<std::byte> buffer(kBlock);
      for (std::uint64_t at = i * kBlock; at < size; at += threads * kBlock) {
        file.PReadExact(at, {buffer.data(), std::min(kBlock, size - at)});
      }
    });
  }
  readers.clear();
  return static_cast<double>(size) / (Now() - start) / 1e9;
}

double Load(const std::string& folder) {
  const Model model = OpenCheckpoint(folder);
  Profile profile;
  profile.device = "none";
  const Plan plan = MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kNo), profile,
                             Precision::kFast);
  const Weights weights(model, plan, ClDevices{}, nullptr);
  return static_cast<double>(weights.loaded_bytes()) / weights.load_s() / 1e9;
}

struct Series {
  std::vector<double> values;
  double Median() {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  std::string Text() {
    const double median = Median();
    return fmt::format("{:6.2f} GB/s ({:.2f} to {:.2f})", median, values.front(), values.back());
  }
};

void Run(const std::string& folder, std::int64_t layers) {
  const std::filesystem::path path = std::filesystem::path(folder) / "model.safetensors";
  std::filesystem::create_directories(folder);
  WriteConfig(layers, path.parent_path() / "config.json");
  WriteTensors(OpenSynthetic(fmt::format("deepseek-v2-lite:layers={}", layers)), path);
  const unsigned threads = std::clamp(std::thread::hardware_concurrency(), 1U, 16U);
  ReadPlain(path, threads);  // warm
  Series one, many, load;
  for (int i = 0; i < kRepetitions; ++i) {
    one.values.push_back(ReadPlain(path, 1));
    load.values.push_back(Load(folder));
    many.values.push_back(ReadPlain(path, threads));
  }
  fmt::print("file of {:.2f} GiB, warm\n",
             static_cast<double>(std::filesystem::file_size(path)) / 1073741824.0);
  fmt::print("plain read, 1 thread   {}\n", one.Text());
  fmt::print("plain read, {} threads  {}\n", threads, many.Text());
  fmt::print("loading, {} threads     {}\n", threads, load.Text());
  fmt::print("loading is {:.2f} of the plain read by 1 thread, {:.2f} of that by {}\n",
             load.Median() / one.Median(), load.Median() / many.Median(), threads);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: load_bench FOLDER [LAYERS]\n");
    return 2;
  }
  try {
    tandem::Run(argv[1], argc > 2 ? std::atoi(argv[2]) : 4);
  } catch (const std::exception& e) {
    fmt::print(stderr, "load_bench: {}\n", e.what());
    return 1;
  }
}
