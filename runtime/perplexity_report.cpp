#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "runtime/perplexity.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

std::string LikelihoodText(const Likelihood& l) {
  return fmt::format("NLL {:.5f} +- {:.5f}, perplexity {:.4f} +- {:.4f}", l.nll, l.nll_error,
                     l.perplexity(), l.perplexity_error());
}

Json LikelihoodJson(const Likelihood& l) {
  return {{"nll", l.nll},
          {"nll_error", l.nll_error},
          {"perplexity", l.perplexity()},
          {"perplexity_error", l.perplexity_error()}};
}

}  // namespace

std::string PerplexityText(const PerplexityReport& report) {
  std::string text = fmt::format("{}: {} tokens in windows of {}\n", report.model,
                                 report.likelihood.tokens, report.window);
  text += fmt::format("  {}\n", LikelihoodText(report.likelihood));
  if (report.against.empty()) return text;
  const Divergence& d = report.divergence;
  text += fmt::format("against {}:\n  {}\n", report.against, LikelihoodText(report.reference));
  text += fmt::format("  KL divergence {:.6f} +- {:.6f}, 99 % below {:.6f}, highest {:.6f}\n",
                      d.mean, d.error, d.p99, d.highest);
  text += fmt::format("  same most likely token {:.2f} %\n", 100 * d.same_top);
  return text;
}

std::string PerplexityJson(const PerplexityReport& report) {
  Json json = {{"model", report.model},
               {"tokens", report.likelihood.tokens},
               {"windows", report.windows},
               {"window", report.window}};
  json.update(LikelihoodJson(report.likelihood));
  if (!report.against.empty()) {
    const Divergence& d = report.divergence;
    json["against"] = {{"model", report.against}};
    json["against"].update(LikelihoodJson(report.reference));
    json["kl_divergence"] = {
        {"mean", d.mean}, {"error", d.error}, {"p99", d.p99}, {"highest", d.highest}};
    json["same_top"] = d.same_top;
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace tandem
