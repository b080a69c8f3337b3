#include "runtime/session.h"

#include <algorithm>
#include <utility>

#include "memory/error.h"
#include "placement/planner.h"

namespace tandem {
namespace {

template <class T>
void Override(T& value, const std::optional<T>& flag) {
  if (flag) value = *flag;
}

}  // namespace

Model OpenModel(const SessionOptions& options) {
  if (options.model_dir.empty() == options.synthetic.empty()) {
    throw UsageError("expected either --model DIR or --synthetic SPEC");
  }
  return options.model_dir.empty() ? OpenSynthetic(options.synthetic)
                                   : OpenCheckpoint(options.model_dir);
}

Profile ProfileOf(const SessionOptions& options) {
  Profile profile = options.profile.empty() ? Profile{} : ReadProfile(options.profile);
  Override(profile.device, options.device);
  Override(profile.context, options.context);
  if (options.chunk) profile.chunk = options.chunk;
  Override(profile.max_sequences, options.sequences);
  if (options.threads) profile.threads = options.threads;
  return profile;
}

Session OpenSession(const SessionOptions& options) {
  Session session;
  session.profile = ProfileOf(options);
  session.model = OpenModel(options);
  const bool no_device = session.profile.device == "none";
  session.machine = ReadMachine(no_device ? ProbeDevices::kNo : ProbeDevices::kYes);
  session.plan = MakePlan(session.model.config, session.model.tensors, session.machine,
                          session.profile, options.precision);
  return session;
}

std::int64_t ContextLimit(const Session& session) {
  return std::min(session.profile.context, session.model.config.max_position_embeddings);
}

}  // namespace tandem
