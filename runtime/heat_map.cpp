#include "runtime/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <string_view>
#include <vector>

#include "model/utf8.h"
#include "placement/hit_rate.h"

namespace tandem {
namespace {

// Stops of a scale that is symmetric about the mean and told apart by colour-blind readers, too.
struct Rgb {
  int r, g, b;
};
constexpr std::array<Rgb, 9> kStops = {{{33, 102, 172},
                                        {67, 147, 195},
                                        {146, 197, 222},
                                        {209, 229, 240},
                                        {247, 247, 247},
                                        {253, 219, 199},
                                        {244, 165, 130},
                                        {214, 96, 77},
                                        {178, 24, 43}}};
constexpr int kLevels = 33;  // colours that are drawn
// The scale ends so many octaves from the mean: the first of these that holds the layers' experts.
constexpr std::array<double, 5> kOctaves = {0.25, 0.5, 1, 2, 3};
constexpr int kNever = -1;  // a level of its own
constexpr const char* kNeverColour = "#8c8c8c";

constexpr int kLeft = 64;         // labels of layers
constexpr int kRight = 88;        // the share of the hottest quarter
constexpr int kTop = 84;          // title and note
constexpr int kPanelTop = 30;     // a panel's title
constexpr int kPanelBottom = 46;  // its ticks and the label of the axis
constexpr int kLegend = 64;
constexpr int kLeastPlot = 520;  // the legend and the title need that much

struct Layout {
  HeatMapOrder order = HeatMapOrder::kHottestFirst;
  std::vector<std::int64_t> layers;       // that have experts
  std::vector<std::vector<int>> columns;  // [layers] experts from left to right
  int experts = 0;
  int cell_width = 0;
  int cell_height = 0;
  double octaves = kOctaves.back();

  int plot_width() const { return cell_width * experts; }
  int plot_height() const { return cell_height * static_cast<int>(layers.size()); }
  int panel_height() const { return kPanelTop + plot_height() + kPanelBottom; }
  int width() const { return kLeft + std::max(plot_width(), kLeastPlot) + kRight; }
  int height() const { return kTop + kNumPhases * panel_height() + kLegend; }
};

std::string Xml(std::string_view text) {
  std::string out;
  for (const char c : LossyUtf8(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        // Other control characters may not stand in XML at all.
        out += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? ' ' : c;
    }
  }
  return out;
}

// A name that may be long, cut to what a title has room for.
std::string Short(const std::string& name) {
  constexpr std::size_t kMost = 48;
  if (name.size() <= kMost) return name;
  return name.substr(0, ValidUtf8Prefix(name.substr(0, kMost))) + "…";
}

std::string Thousands(std::int64_t n) {
  return n < 1000 ? std::to_string(n) : fmt::format("{},{:03}", Thousands(n / 1000), n % 1000);
}

std::string Colour(int level) {
  if (level == kNever) return kNeverColour;
  const double at = static_cast<double>(level) / (kLevels - 1) * (kStops.size() - 1);
  const auto low = std::min(static_cast<std::size_t>(at), kStops.size() - 2);
  const double part = at - static_cast<double>(low);
  const auto mix = [part](int a, int b) {
    return static_cast<int>(std::lround(a + (b - a) * part));
  };
  const Rgb& a = kStops[low];
  const Rgb& b = kStops[low + 1];
  return fmt::format("#{:02x}{:02x}{:02x}", mix(a.r, b.r), mix(a.g, b.g), mix(a.b, b.b));
}

// `times`: how often the expert was chosen, over the layer's mean.
int LevelOf(double times, double octaves) {
  if (times <= 0) return kNever;
  const double at = std::clamp(std::log2(times) / octaves, -1.0, 1.0);  // [-1, 1]
  return static_cast<int>(std::lround((at + 1) / 2 * (kLevels - 1)));
}

struct Text {
  double x, y;
  int size;
  const char* anchor = "start";
  const char* colour = "#222";
  bool bold = false;
};

std::string Label(const Text& at, std::string_view text) {
  return fmt::format(
      "<text x=\"{:g}\" y=\"{:g}\" font-size=\"{}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>\n",
      at.x, at.y, at.size, at.anchor, at.colour, at.bold ? " font-weight=\"bold\"" : "", Xml(text));
}

std::vector<std::int64_t> LayersOf(const RoutingStatistics& s) {
  std::vector<bool> counted(static_cast<std::size_t>(s.layers), false);
  for (const RoutingDomain& domain : s.domains) {
    for (const RoutingCounts& c : domain.phases) {
      for (std::size_t l = 0; l < c.counts.size(); ++l) {
        if (!c.counts[l].empty()) counted[l] = true;
      }
    }
  }
  std::vector<std::int64_t> layers;
  for (std::size_t l = 0; l < counted.size(); ++l) {
    if (counted[l]) layers.push_back(static_cast<std::int64_t>(l));
  }
  return layers;
}

// Shares over both phases, each weighing the same, so that the order serves both panels.
std::vector<double> MeanShares(const RoutingStatistics& s, std::int64_t layer) {
  std::vector<double> mean = s.Shares(Phase::kPrefill, layer);
  const std::vector<double> decode = s.Shares(Phase::kDecode, layer);
  for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += decode[e];
  return mean;
}

// 98 of 100 cells lie within the scale: single extremes may not hide the rest.
double OctavesOf(const RoutingStatistics& s, const std::vector<std::int64_t>& layers) {
  std::vector<double> distances;
  for (const std::int64_t layer : layers) {
    for (int p = 0; p < kNumPhases; ++p) {
      for (const double share : s.Shares(static_cast<Phase>(p), layer)) {
        const double times = share * static_cast<double>(s.experts);
        if (times > 0) distances.push_back(std::abs(std::log2(times)));
      }
    }
  }
  if (distances.empty()) return kOctaves.back();
  std::ranges::sort(distances);
  const double most = distances[(distances.size() - 1) * 98 / 100];
  const auto fits = std::ranges::find_if(kOctaves, [&](double o) { return o >= most; });
  return fits == kOctaves.end() ? kOctaves.back() : *fits;
}

Layout MakeLayout(const RoutingStatistics& s, HeatMapOrder order) {
  constexpr int kPlotWidth = 960;
  constexpr int kPlotHeight = 480;
  Layout layout;
  layout.order = order;
  layout.layers = LayersOf(s);
  layout.experts = static_cast<int>(s.experts);
  layout.octaves = OctavesOf(s, layout.layers);
  const int rows = std::max(1, static_cast<int>(layout.layers.size()));
  layout.cell_width = std::clamp(kPlotWidth / layout.experts, 2, 24);
  layout.cell_height = std::clamp(kPlotHeight / rows, 5, 22);
  for (const std::int64_t layer : layout.layers) {
    std::vector<int> ids(static_cast<std::size_t>(s.experts));
    std::iota(ids.begin(), ids.end(), 0);
    const bool sorted = order == HeatMapOrder::kHottestFirst;
    layout.columns.push_back(sorted ? HottestExperts(MeanShares(s, layer), s.experts) : ids);
  }
  return layout;
}

// All cells of a colour are one path: a picture of 58 layers of 256 experts has 30,000 cells.
std::string Cells(const RoutingStatistics& s, Phase phase, const Layout& layout, int top) {
  std::array<std::string, kLevels + 1> paths;  // kNever first
  for (std::size_t row = 0; row < layout.layers.size(); ++row) {
    const std::vector<double> shares = s.Shares(phase, layout.layers[row]);
    for (std::size_t column = 0; column < layout.columns[row].size(); ++column) {
      const double share = shares[static_cast<std::size_t>(layout.columns[row][column])];
      const int level = LevelOf(share * layout.experts, layout.octaves);
      fmt::format_to(std::back_inserter(paths[static_cast<std::size_t>(level + 1)]),
                     "M{} {}h{}v{}h-{}z", kLeft + static_cast<int>(column) * layout.cell_width,
                     top + static_cast<int>(row) * layout.cell_height, layout.cell_width,
                     layout.cell_height, layout.cell_width);
    }
  }
  std::string svg = "<g shape-rendering=\"crispEdges\">\n";
  for (int level = kNever; level < kLevels; ++level) {
    const std::string& path = paths[static_cast<std::size_t>(level + 1)];
    if (!path.empty()) svg += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", Colour(level), path);
  }
  return svg + "</g>\n";
}

// The layer on the left of each row, the share of its hottest quarter on the right.
std::string RowLabels(const RoutingStatistics& s, Phase phase, const Layout& layout, int top) {
  const int size = std::clamp(layout.cell_height + 1, 7, 11);
  const std::size_t every = layout.cell_height >= 9 ? 1 : 2;
  const std::int64_t quarter = ExpertsOfPercent(s.experts, 25);
  const double right = kLeft + layout.plot_width() + 8;
  std::string svg;
  for (std::size_t row = 0; row < layout.layers.size(); row += every) {
    const double y = top + (static_cast<double>(row) + 0.5) * layout.cell_height + size * 0.36;
    const double share = TopShare(s.Shares(phase, layout.layers[row]), quarter);
    svg += Label({kLeft - 8, y, size, "end", "#444"}, std::to_string(layout.layers[row]));
    svg += Label({right, y, size, "start", "#444"}, fmt::format("{:.1f} %", 100 * share));
  }
  return svg;
}

// Hottest first: where 10, 25 and 50 % of the experts end. By id: every eighth of them.
std::string Ticks(const Layout& layout, int top) {
  const int bottom = top + layout.plot_height();
  const bool sorted = layout.order == HeatMapOrder::kHottestFirst;
  std::string svg;
  const auto tick = [&](int column, const std::string& text) {
    const int x = kLeft + column * layout.cell_width;
    const int from = sorted ? top - 3 : bottom;
    svg += fmt::format("<path d=\"M{} {}V{}\" stroke=\"#222\" stroke-width=\"1\"/>\n", x, from,
                       bottom + 5);
    svg += Label({static_cast<double>(x), bottom + 17.0, 11, "middle", "#444"}, text);
  };
  if (sorted) {
    for (const int percent : {10, 25, 50}) {
      tick(static_cast<int>(ExpertsOfPercent(layout.experts, percent)),
           fmt::format("{} %", percent));
    }
  } else {
    const int step = std::max(1, layout.experts / 8);
    for (int e = 0; e < layout.experts; e += step) tick(e, std::to_string(e));
  }
  const char* axis = sorted ? "experts of each layer, the hottest first (one order for both phases)"
                            : "experts of each layer, by id";
  return svg +
         Label({kLeft + layout.plot_width() / 2.0, bottom + 34.0, 12, "middle", "#444"}, axis);
}

std::string Panel(const RoutingStatistics& s, Phase phase, const Layout& layout, int top) {
  const std::int64_t tokens = s.Total(phase).tokens;
  const char* name = phase == Phase::kPrefill ? "Prefill" : "Decode";
  const int plot = top + kPanelTop;
  std::string svg = Label({kLeft, top + 18.0, 14, "start", "#222", true},
                          fmt::format("{}: {} tokens", name, Thousands(tokens)));
  if (tokens == 0) {
    return svg + Label({kLeft, plot + 18.0, 12, "start", "#444"}, "nothing was counted");
  }
  svg +=
      Label({kLeft + layout.plot_width() + 8.0, plot - 6.0, 10, "start", "#444"}, "hottest 25 %");
  svg += Label({kLeft - 8.0, plot - 6.0, 10, "end", "#444"}, "layer");
  svg += Cells(s, phase, layout, plot);
  svg += fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#222\"/>\n", kLeft,
      plot, layout.plot_width(), layout.plot_height());
  return svg + RowLabels(s, phase, layout, plot) + Ticks(layout, plot);
}

std::string Legend(double octaves, int top) {
  constexpr int kStep = 9;
  constexpr int kWidth = kStep * kLevels;
  constexpr int kTicks = 7;
  std::string svg = Label({kLeft, top + 4.0, 11},
                          "chosen … times as often as the layer's mean (at the ends: or beyond)");
  svg += "<g shape-rendering=\"crispEdges\">\n";
  for (int level = 0; level < kLevels; ++level) {
    svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"14\" fill=\"{}\"/>\n",
                       kLeft + level * kStep, top + 12, kStep, Colour(level));
  }
  svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{}\"/>\n</g>\n",
                     kLeft + kWidth + 40, top + 12, kNeverColour);
  for (int i = 0; i < kTicks; ++i) {
    const double at = static_cast<double>(i) / (kTicks - 1);  // [0, 1]
    const double x = kLeft + kStep / 2.0 + at * (kWidth - kStep);
    const double times = std::exp2((2 * at - 1) * octaves);
    svg += Label({x, top + 40.0, 11, "middle", "#444"}, fmt::format("{:.3g}", times));
  }
  return svg + Label({kLeft + kWidth + 60.0, top + 23.0, 11}, "never chosen");
}

}  // namespace

std::string HeatMapSvg(const RoutingStatistics& s, HeatMapOrder order) {
  const Layout layout = MakeLayout(s, order);
  const std::string title = "Which experts " + Short(s.model) + " chooses";
  std::string svg = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" role=\"img\" font-family=\"Helvetica, Arial, sans-serif\">\n"
      "<title>{2}</title>\n<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
      layout.width(), layout.height(), Xml(title));
  svg += Label({kLeft, 34, 20, "start", "#222", true}, title);
  svg += Label({kLeft, 56, 12, "start", "#444"},
               fmt::format("{} of {} experts per token in {} layers; {} {}: {}",
                           s.experts_per_token, s.experts, layout.layers.size(), s.domains.size(),
                           s.domains.size() == 1 ? "text" : "texts",
                           s.domains.empty() ? "none" : Short(s.domains.front().name)) +
                   (s.domains.size() > 1 ? ", …" : ""));
  for (int p = 0; p < kNumPhases; ++p) {
    svg += Panel(s, static_cast<Phase>(p), layout, kTop + p * layout.panel_height());
  }
  return svg + Legend(layout.octaves, kTop + kNumPhases * layout.panel_height() + 8) + "</svg>\n";
}

}  // namespace tandem
