#include "placement/offers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "placement/byte_size.h"
#include "placement/profile_check.h"
#include "placement/search_devices.h"

namespace tandem {
namespace {

constexpr std::size_t kOffers = 3;

// One setting that can be changed in steps, each larger than the one before; step 0 is no change.
struct Lever {
  std::string setting;
  std::vector<std::string> words;  // what the setting reads at each step
  std::vector<double> sizes;       // of the change
  std::function<void(Profile&, std::size_t)> apply;
  std::size_t last() const { return words.size() - 1; }
};

// A number that is lowered: by sixteenths of itself first, then by halves.
Lever NumberLever(std::string setting, std::int64_t from, std::int64_t least, std::int64_t grain,
                  std::function<void(Profile&, std::int64_t)> set) {
  std::vector<std::int64_t> values{from};
  const auto add = [&](std::int64_t value) {
    value = std::max(least, value / grain * grain);
    if (value < values.back()) values.push_back(value);
  };
  for (std::int64_t sixteenths = 15; sixteenths > 8; --sixteenths) add(from / 16 * sixteenths);
  for (std::int64_t value = from / 2; value > 0 && values.back() > least; value /= 2) {
    add(value);
    add(value - value / 4);
  }
  add(least);
  Lever lever{std::move(setting), {}, {}, {}};
  for (const std::int64_t value : values) {
    lever.words.push_back(std::to_string(value));
    lever.sizes.push_back(std::log2(static_cast<double>(from) / static_cast<double>(value)));
  }
  lever.apply = [values, set = std::move(set)](Profile& profile, std::size_t step) {
    if (step > 0) set(profile, values[step]);
  };
  return lever;
}

Lever SwitchLever(std::string setting, std::string from, std::string to,
                  std::function<void(Profile&)> set) {
  return {std::move(setting),
          {std::move(from), std::move(to)},
          {0, 1},
          [set = std::move(set)](Profile& profile, std::size_t step) {
            if (step > 0) set(profile);
          }};
}

std::string Word(Side side) {
  return side == Side::kDevice ? "device" : side == Side::kHost ? "host" : "auto";
}

void AddNumbers(const PlanTask& task, const Profile& p, std::vector<Lever>& levers) {
  levers.push_back(NumberLever("workload.context", p.context,
                               std::max<std::int64_t>(1, std::min(p.context, p.least_context)), 1,
                               [](Profile& to, std::int64_t v) { to.context = v; }));
  const DType kv = KvType(p, task.options.precision);
  if (kv == DType::kF32) {
    levers.push_back(
        SwitchLever("kv.type", "f32", "f16", [](Profile& to) { to.kv_type = DType::kF16; }));
  }
  levers.push_back(NumberLever("workload.sequences", p.max_sequences, 1, 1,
                               [](Profile& to, std::int64_t v) { to.max_sequences = v; }));
  if (!p.chunk) return;
  levers.push_back(NumberLever("workload.chunk", *p.chunk, std::min<std::int64_t>(*p.chunk, 64), 1,
                               [](Profile& to, std::int64_t v) { to.chunk = v; }));
}

// Fewer experts on the devices, and at last as many as the planner likes.
void AddExperts(const Profile& p, std::vector<Lever>& levers) {
  const bool share = p.experts == Profile::Experts::kShare;
  const double from = share ? p.experts_share : static_cast<double>(p.experts_bytes);
  const auto word = [share](double value) {
    return share ? fmt::format("{{share: {:.4g}}}", value)
                 : fmt::format("{{bytes: {}}}", FormatBytes(static_cast<std::uint64_t>(value)));
  };
  std::vector<double> values{from};
  for (double part = 0.9375; from > 0 && part > 0.002; part -= part > 0.55 ? 0.0625 : part / 4) {
    values.push_back(share ? std::round(from * part * 1e4) / 1e4 : std::floor(from * part));
  }
  Lever lever{"placement.routed_experts", {}, {}, {}};
  for (std::size_t i = 0; i < values.size(); ++i) {
    lever.words.push_back(word(values[i]));
    lever.sizes.push_back(i == 0 ? 0 : std::log2(from / std::max(values[i], from / 1024)));
  }
  lever.words.emplace_back("auto");
  lever.sizes.push_back(10);
  lever.apply = [values, share](Profile& profile, std::size_t step) {
    if (step == 0) return;
    if (step >= values.size()) {
      profile.experts = Profile::Experts::kAuto;
    } else if (share) {
      profile.experts_share = values[step];
    } else {
      profile.experts_bytes = static_cast<std::uint64_t>(values[step]);
    }
  };
  levers.push_back(std::move(lever));
}

// What the profile demands, given back to the planner one by one.
void AddDemands(const PlanTask& task, const Profile& p, std::vector<Lever>& levers) {
  const auto side = [&](const char* setting, Side Profile::*member) {
    if (p.*member == Side::kAuto) return;
    levers.push_back(SwitchLever(setting, Word(p.*member), "auto",
                                 [member](Profile& to) { to.*member = Side::kAuto; }));
  };
  side("placement.attention", &Profile::attention);
  side("kv.place", &Profile::kv_place);
  side("placement.dense", &Profile::dense);
  side("placement.shared_experts", &Profile::shared_experts);
  side("placement.router", &Profile::router);
  side("placement.head", &Profile::head);
  if (p.experts != Profile::Experts::kAuto) AddExperts(p, levers);
  for (std::size_t r = 0; r < p.rules.size(); ++r) {
    levers.push_back(
        SwitchLever(fmt::format("the rule of line {}", p.rules[r].line), "kept", "removed",
                    [line = p.rules[r].line](Profile& to) {
                      std::erase_if(to.rules, [&](const Rule& rule) { return rule.line == line; });
                    }));
  }
  if (p.device == "none" && !task.machine.devices.empty()) {
    levers.push_back(
        SwitchLever("device", "none", "auto", [](Profile& to) { to.device = "auto"; }));
  }
}

class OfferSearch {
 public:
  OfferSearch(const PlanTask& task, const Profile& profile) : task_(task), profile_(profile) {
    AddNumbers(task, profile, levers_);
    AddDemands(task, profile, levers_);
    std::erase_if(levers_, [](const Lever& lever) { return lever.last() == 0; });
  }

  Offers Run() {
    Offers offers;
    for (std::size_t changes = 1; changes <= 3 && offers.nearest.size() < kOffers; ++changes) {
      std::vector<std::size_t> chosen;
      Combine(0, changes, chosen);
      TakeFound(offers);
    }
    FillUp(offers);
    if (!offers.nearest.empty()) return offers;
    std::vector<std::size_t> last;
    for (const Lever& lever : levers_) last.push_back(lever.last());
    if (Fits(last)) return AllChanged(last);
    offers.missing = FindPlan(task_, Apply(last), Effort::kFits).missing;
    return offers;
  }

 private:
  using Steps = std::vector<std::size_t>;  // of every lever

  Profile Apply(const Steps& steps) const {
    Profile profile = profile_;
    for (std::size_t i = 0; i < levers_.size(); ++i) levers_[i].apply(profile, steps[i]);
    return profile;
  }
  bool Fits(const Steps& steps) const { return FindPlan(task_, Apply(steps), Effort::kFits).fits; }

  // Every choice of so many levers.
  void Combine(std::size_t from, std::size_t count, std::vector<std::size_t>& chosen) {
    if (chosen.size() == count) return TryLevers(chosen);
    for (std::size_t i = from; i < levers_.size(); ++i) {
      chosen.push_back(i);
      Combine(i + 1, count, chosen);
      chosen.pop_back();
    }
  }

  // The chosen levers as far as needed. What is eased first is eased most, so both ends begin.
  void TryLevers(std::vector<std::size_t> chosen) {
    Steps most(levers_.size(), 0);
    for (const std::size_t i : chosen) most[i] = levers_[i].last();
    if (!Fits(most)) return;
    Ease(chosen, most);
    if (chosen.size() == 1) return;
    std::ranges::reverse(chosen);
    Ease(chosen, most);
  }

  void Ease(const std::vector<std::size_t>& chosen, Steps steps) {
    for (const std::size_t i : chosen) steps[i] = LeastThatFits(steps, i);
    for (const std::size_t i : chosen) {
      if (steps[i] == 0) return;  // fewer changes do as well
    }
    if (!Dominated(steps)) found_.push_back(steps);
  }

  std::size_t LeastThatFits(Steps steps, std::size_t lever) const {
    std::size_t low = 0, high = levers_[lever].last();
    while (low < high) {
      steps[lever] = (low + high) / 2;
      if (Fits(steps)) {
        high = steps[lever];
      } else {
        low = steps[lever] + 1;
      }
    }
    return high;
  }

  // Whether an earlier find changes nothing more than these do.
  bool Dominated(const Steps& steps) const {
    return std::ranges::any_of(found_, [&](const Steps& other) {
      for (std::size_t i = 0; i < steps.size(); ++i) {
        if (other[i] > steps[i]) return false;
      }
      return true;
    });
  }

  void TakeFound(Offers& offers) {
    for (; taken_ < found_.size(); ++taken_) offers.nearest.push_back(MakeOffer(found_[taken_]));
    std::ranges::stable_sort(offers.nearest, [](const Offer& a, const Offer& b) {
      return a.changes.size() != b.changes.size() ? a.changes.size() < b.changes.size()
                                                  : a.size() < b.size();
    });
    if (offers.nearest.size() > kOffers) offers.nearest.resize(kOffers);
  }

  // Where there are few ways, larger steps on these.
  void FillUp(Offers& offers) {
    for (std::size_t k = 0; k < found_.size() && offers.nearest.size() < kOffers; ++k) {
      for (std::size_t i = 0; i < levers_.size() && found_.size() < kOffers; ++i) {
        Steps further = found_[k];
        if (further[i] == 0 || ++further[i] > levers_[i].last()) continue;
        if (Fits(further)) found_.push_back(further);
      }
      TakeFound(offers);
    }
  }

  Offer MakeOffer(const Steps& steps) const {
    Offer offer;
    offer.profile = Apply(steps);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const Lever& lever = levers_[i];
      if (steps[i] == 0) continue;
      offer.changes.push_back(
          {lever.setting, lever.words[0], lever.words[steps[i]], lever.sizes[steps[i]]});
    }
    offer.plan = FindPlan(task_, offer.profile, Effort::kFull).plan;
    return offer;
  }

  Offers AllChanged(Steps steps) const {
    for (std::size_t i = steps.size(); i-- > 0;) steps[i] = LeastThatFits(steps, i);
    Offers offers;
    offers.nearest.push_back(MakeOffer(steps));
    return offers;
  }

  const PlanTask& task_;
  const Profile& profile_;
  std::vector<Lever> levers_;
  std::vector<Steps> found_;
  std::size_t taken_ = 0;
};

std::string PlaceBytes(const Plan& plan) {
  std::string text = fmt::format("host {}", FormatBytes(plan.HostMemoryBytes()));
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    const auto device = static_cast<int>(d);
    text += fmt::format(", {} {}", ToString(Place::Device(device)),
                        FormatBytes(plan.DeviceBytes(device)));
  }
  return text;
}

}  // namespace

double Offer::size() const {
  double sum = 0;
  for (const Change& change : changes) sum += change.size;
  return sum;
}

Offers NearestPlans(const PlanTask& task, const Profile& profile) {
  return OfferSearch(task, profile).Run();
}

std::string DescribeOffers(const Offers& offers) {
  if (offers.nearest.empty()) {
    if (offers.missing == kNoSuchBuffer) {
      return "no change of settings makes it fit: the device's buffers are too small for what must "
             "lie in one; use another device, or run on the CPU (--device none)";
    }
    return fmt::format(
        "no change of settings makes it fit: {} are missing in the best case; it takes more "
        "memory, or a smaller model or weight format",
        FormatBytes(offers.missing));
  }
  std::string text = "nearest plans that fit:";
  int number = 0;
  for (const Offer& offer : offers.nearest) {
    text += fmt::format("\n  {}. ", ++number);
    for (std::size_t i = 0; i < offer.changes.size(); ++i) {
      const Change& change = offer.changes[i];
      text +=
          fmt::format("{}{} {} -> {}", i > 0 ? ", " : "", change.setting, change.from, change.to);
    }
    text += fmt::format(": prefill {:.1f} tokens/s, decode {:.2f} tokens/s; {}",
                        offer.plan.prediction.prefill_tokens_per_s,
                        offer.plan.prediction.decode_tokens_per_s, PlaceBytes(offer.plan));
  }
  return text;
}

}  // namespace tandem
