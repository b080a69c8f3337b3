#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"

namespace tandem::test {

// The forward pass of a DeepSeek-V3 checkpoint (one file, bf16, f32 or FP8 weights) in double,
// token by token, for tests that change what a layer sees. `late` says of an expert of a layer (-1:
// the shared one) whether its output joins a sum of its own, and `defers` whether a layer's such
// sum is added to the residual only after the next layer's attention and choice of experts.
class NaiveModel {
 public:
  NaiveModel(const std::string& dir, const Config& config);

  std::function<bool(int layer, int expert)> late = [](int, int) { return false; };
  std::function<bool(int layer)> defers = [](int) { return false; };

  // The logits [T, V] of a new sequence.
  std::vector<float> Logits(const std::vector<std::int32_t>& ids);

 private:
  using Vec = std::vector<double>;
  struct Weight {
    std::int64_t rows = 0, cols = 0;
    std::vector<float> values;
  };
  struct Cached {  // of one token
    Vec latent, key;
  };

  const Weight& Get(const std::string& name);
  Vec Product(const std::string& name, const Vec& x);
  Vec Norm(const std::string& name, const Vec& x);
  Vec Mlp(const std::string& prefix, const Vec& h);
  Vec Attention(int layer, const Vec& x);
  Vec AttendHead(int layer, std::int64_t head, const Vec& q);
  void Rotate(double* values) const;
  std::map<int, double> Choose(int layer, const Vec& h);
  Vec Step(std::int32_t token);

  SafetensorsFile file_;
  Config config_;
  std::map<std::string, Weight> weights_;
  std::vector<std::vector<Cached>> cache_;  // [layer][token]
  std::int64_t position_ = 0;
};

}  // namespace tandem::test
