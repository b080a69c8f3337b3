#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/config.h"

namespace tandem {
namespace {

// The growth of attention's temperature with the stretch of the context (YaRN, section 3.4).
double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The pair of dimensions that turns `rotations` times over the original context.
double CorrectionDim(double rotations, double dims, double theta, const RopeScaling& yarn) {
  const double length = static_cast<double>(yarn.original_max_position_embeddings);
  return dims * std::log(length / (2 * std::numbers::pi * rotations)) / (2 * std::log(theta));
}

// YaRN keeps the fast pairs, divides the slow ones by `factor`, and blends between lo and hi.
void ApplyYarn(const RopeScaling& yarn, double theta, double dims, std::vector<double>* freq) {
  const double lo = std::max(std::floor(CorrectionDim(yarn.beta_fast, dims, theta, yarn)), 0.0);
  const double hi = std::min(std::ceil(CorrectionDim(yarn.beta_slow, dims, theta, yarn)), dims - 1);
  const double width = hi == lo ? 0.001 : hi - lo;
  for (std::size_t i = 0; i < freq->size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - lo) / width, 0.0, 1.0);
    double& f = (*freq)[i];
    f = f / yarn.factor * ramp + f * (1 - ramp);
  }
}

}  // namespace

double Config::softmax_scale() const {
  const double scale = 1 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (!rope_scaling) return scale;
  const double m = YarnMscale(rope_scaling->factor, rope_scaling->mscale_all_dim);
  return scale * m * m;
}

std::vector<double> Config::inv_freq() const {
  const double dims = static_cast<double>(qk_rope_head_dim);
  std::vector<double> freq(static_cast<std::size_t>(qk_rope_head_dim / 2));
  for (std::size_t i = 0; i < freq.size(); ++i) {
    freq[i] = std::pow(rope_theta, -2.0 * static_cast<double>(i) / dims);
  }
  if (rope_scaling) ApplyYarn(*rope_scaling, rope_theta, dims, &freq);
  return freq;
}

double Config::rope_attention_factor() const {
  if (!rope_scaling) return 1;
  return YarnMscale(rope_scaling->factor, rope_scaling->mscale) /
         YarnMscale(rope_scaling->factor, rope_scaling->mscale_all_dim);
}

}  // namespace tandem
