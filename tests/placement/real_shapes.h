#pragma once

#include "invented.h"
#include "placement/planner.h"

// Tensors of the invented models, and what many tests ask of plans for them.
namespace tandem::test {

inline const TensorList& V3Tensors() {
  static const TensorList tensors = ExpectedTensors(V3(), DType::kF8E4M3);
  return tensors;
}
inline const TensorList& V2LiteTensors() {
  static const TensorList tensors = ExpectedTensors(V2Lite(), DType::kBF16);
  return tensors;
}
inline const TensorList& TinyTensors() {
  static const TensorList tensors = ExpectedTensors(Tiny(), DType::kBF16);
  return tensors;
}

inline Plan PlanTiny(const Machine& machine, const Profile& profile,
                     Precision precision = Precision::kFast) {
  return MakePlan(Tiny(), TinyTensors(), machine, profile, precision);
}

// Everything on the device that is asked for by name, which a device auto need not use.
inline Profile OnDevice(const std::string& device, double experts) {
  Profile profile;
  profile.device = device;
  profile.attention = profile.dense = profile.shared_experts = Side::kDevice;
  profile.router = profile.head = Side::kDevice;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = experts;
  return profile;
}

}  // namespace tandem::test
