// How long the core's steps take: `make bench-cpp` times all of them with Google Benchmark,
// bench_core --benchmark_filter=step/skewed some. The same step is taken again and again, from warm
// caches: to see what a change of the core does. benchmarks/trie.py times whole decodes, beside
// other ways to do it. Debian's library warns that it was built as DEBUG; the core is not.
//
// A million items of 4 codes of 256; steps of 32 requests of 20 beams. Attention of one layer of 16
// requests, heads of 64. Item rows: a million of 128 numbers, 128 below each prefix; evidence: 32
// histories of 20 events, 200 neighbours each. One thread.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cmath>
#include <numeric>

#include "attention.h"
#include "inputs.h"
#include "search.h"
#include "store_engine/model/item_logits.h"
#include "store_engine/search/evidence.h"
#include "store_engine/search/rank_items.h"
#include "store_engine/trie/live_trie.h"

using namespace store_engine;

namespace {

constexpr int64_t kNumItems = 1'000'000, kCodebookSize = 256, kBatch = 32, kBeamWidth = 20;
const std::vector<int64_t> kSizes(4, kCodebookSize);

enum class Codes { kUniform, kSkewed };
enum class Filter { kNone, kTenPercent };

// In SID order. Skewed: each code by Zipf's law with exponent 1.1.
std::vector<int32_t> make_sids(Codes codes, int64_t num_items, uint64_t seed) {
  std::vector<double> weights;
  for (int64_t rank = 1; rank <= kCodebookSize; ++rank) {
    weights.push_back(codes == Codes::kUniform ? 1 : std::pow(rank, -1.1));
  }
  std::discrete_distribution<int32_t> code(weights.begin(), weights.end());
  std::mt19937_64 engine(seed);
  std::vector<int32_t> sids(static_cast<size_t>(num_items) * kSizes.size());
  for (int32_t& drawn : sids) drawn = code(engine);
  return ItemTrie({sids.data(), num_items, kSizes}, {}).sids();
}

const std::vector<int32_t>& sids_of(Codes codes) {
  static const std::vector<int32_t> made[] = {make_sids(Codes::kUniform, kNumItems, 1),
                                              make_sids(Codes::kSkewed, kNumItems, 1)};
  return made[static_cast<int>(codes)];
}

ItemTrie make_trie(Codes codes, bool is_compact) {
  return {{sids_of(codes).data(), kNumItems, kSizes}, {is_compact, 1}};
}

void build(benchmark::State& state, bool is_compact) {
  sids_of(Codes::kUniform);  // before the clock runs
  for (auto _ : state) benchmark::DoNotOptimize(make_trie(Codes::kUniform, is_compact).nbytes());
  state.SetItemsProcessed(state.iterations() * kNumItems);
}

void load(benchmark::State& state, bool is_compact) {
  const std::string path = temporary_path();
  make_trie(Codes::kUniform, is_compact).save(path);
  for (auto _ : state) benchmark::DoNotOptimize(ItemTrie::load(path).nbytes());
  state.SetBytesProcessed(state.iterations() *
                          static_cast<int64_t>(std::filesystem::file_size(path)));
  ::unlink(path.c_str());
}

// One row in ten, but for each request 20 of these.
ItemFilter make_filter(const Snapshot& snapshot) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < snapshot.num_rows(); row += 10) rows.push_back(row);
  const auto num_rows = static_cast<int64_t>(rows.size());
  const std::shared_ptr<RowSet> allow = RowSet::from_rows(snapshot, rows.data(), num_rows);
  ItemFilter filter(snapshot, kBatch);
  for (int64_t i = 0; i < kBatch; ++i) filter.restrict(i, allow, rows.data() + i * 20, 20);
  return filter;
}

void step(benchmark::State& state, Codes codes, bool is_compact, Filter filtered) {
  Snapshot snapshot;
  snapshot.base = std::make_shared<ItemTrie>(make_trie(codes, is_compact));
  const ItemFilter made = make_filter(snapshot);
  const ItemFilter* filter = filtered == Filter::kNone ? nullptr : &made;
  Random random(2);
  const auto draw_logits = [&](const BeamSlots& slots) {
    return random.logits(slots.batch * slots.width * kCodebookSize);
  };
  BeamSlots slots(kBatch, 1), next(kBatch, kBeamWidth);
  for (int64_t level = 0; level < state.range(0); ++level) {
    const std::vector<float> logits = draw_logits(slots);
    beam_step(snapshot, level, slots.beams(logits), filter, Normalize::kCodebook, 1, next.out());
    slots = next;
  }
  const std::vector<float> logits = draw_logits(slots);
  for (auto _ : state) {
    beam_step(snapshot, state.range(0), slots.beams(logits), filter, Normalize::kCodebook, 1,
              next.out());
  }
  if (next.num_valid != std::vector<int64_t>(kBatch, kBeamWidth)) {
    state.SkipWithError("a beam is not full");
  }
}

void live_add(benchmark::State& state) {
  std::vector<int64_t> ids(kNumItems + 1000);
  std::iota(ids.begin(), ids.end(), 0);
  LiveTrie live({sids_of(Codes::kUniform).data(), kNumItems, kSizes}, ids.data(), {});
  uint64_t seed = 3;
  for (auto _ : state) {
    state.PauseTiming();
    const std::vector<int32_t> added = make_sids(Codes::kUniform, 1000, seed++);
    state.ResumeTiming();
    live.add(added.data(), ids.data() + kNumItems, 1000);
    state.PauseTiming();  // away again, so that nothing is ever merged
    live.remove(ids.data() + kNumItems, 1000);
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * 1000);
}

enum class Tokens { kPrefill, kBeams };  // histories of 81 tokens; of these, 20 beams 3 deep

template <typename T>
void attend_layer(benchmark::State& state, Tokens tokens) {
  const std::vector<int64_t> num_context(16, 81);
  Random random(4);
  const TokenBlock block = tokens == Tokens::kPrefill
                               ? history_block(num_context, std::vector<int64_t>(16))
                               : beam_block(random, num_context, 81, kBeamWidth, 3);
  AttentionInputs<T> inputs(random, {state.range(0), state.range(1), 64, 81 + 3 * kBeamWidth},
                            block, false);
  for (auto _ : state) {
    inputs.attend(1);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * block.num_tokens());
}
constexpr auto attend_float = attend_layer<float>;
constexpr auto attend_bfloat16 = attend_layer<uint16_t>;

template <typename T>
void item_rows(benchmark::State& state) {
  constexpr int64_t kHidden = 128, kFanout = 128, kNumPrefixes = kNumItems / kFanout;
  Random random(5);
  std::vector<T> rows(static_cast<size_t>(kNumItems * kHidden), T{1});
  std::vector<int32_t> slots(static_cast<size_t>(kNumPrefixes * kFanout));
  std::iota(slots.begin(), slots.end(), 0);
  std::vector<int64_t> prefixes(static_cast<size_t>(kBatch * kBeamWidth));
  for (int64_t& prefix : prefixes) prefix = random.number(0, kNumPrefixes - 1);
  const auto states = to_dtype<T>(random.logits(kBatch * kBeamWidth * kHidden));
  std::vector<float> out(prefixes.size() * kFanout);
  for (auto _ : state) {
    item_logits(ItemRows<T>{rows.data(), slots.data(), kNumItems, kHidden, kNumPrefixes, kFanout},
                PrefixStates<T>{states.data(), prefixes.data(), kBatch, kBeamWidth, false}, 1,
                out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(out.size() * kHidden) *
                          static_cast<int64_t>(sizeof(T)));
}

void evidence(benchmark::State& state) {
  constexpr int64_t kNumEvents = 20, kNumNeighbours = 200;
  Random random(6);
  const int64_t num_items = state.range(0);
  std::vector<int64_t> begins(static_cast<size_t>(num_items) + 1), offsets(kBatch + 1);
  for (size_t i = 0; i < begins.size(); ++i) begins[i] = static_cast<int64_t>(i) * kNumNeighbours;
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i) * kNumEvents;
  std::vector<int32_t> indices(static_cast<size_t>(begins.back()));
  for (int32_t& item : indices) item = static_cast<int32_t>(random.number(0, num_items - 1));
  const std::vector<float> data = random.logits(begins.back());
  const EvidenceMatrix matrix(begins.data(), num_items, indices.data(), data.data(), begins.back());
  std::vector<int64_t> rows(kBatch * kNumEvents), found(kBatch * kBeamWidth);
  for (int64_t& row : rows) row = random.number(0, num_items - 1);
  std::vector<float> scores(found.size());
  const RecentEvents events{rows.data(), offsets.data(), kBatch, 0.7f, kNumEvents};
  for (auto _ : state) {
    top_evidence(matrix, events, nullptr, 1, {kBeamWidth, found.data(), scores.data()});
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void rank(benchmark::State& state, Filter filtered) {
  Snapshot snapshot;
  snapshot.base = std::make_shared<ItemTrie>(make_trie(Codes::kUniform, false));
  const ItemFilter made = make_filter(snapshot);
  Random random(7);
  std::vector<std::vector<float>> logits;
  std::vector<const float*> levels;
  for (size_t level = 0; level < kSizes.size(); ++level) {
    logits.push_back(random.logits(kBatch * kCodebookSize));
    levels.push_back(logits.back().data());
  }
  std::vector<int64_t> rows(kBatch * kBeamWidth);
  std::vector<float> scores(rows.size());
  for (auto _ : state) {
    rank_items(snapshot, levels, kBatch, filtered == Filter::kNone ? nullptr : &made, 1,
               {kBeamWidth, rows.data(), scores.data()});
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void with_heads(benchmark::internal::Benchmark* attention) {
  attention->ArgNames({"heads", "kv_heads"})->Args({4, 4})->Args({9, 3});
  attention->Unit(benchmark::kMicrosecond);
}

void at_levels(benchmark::internal::Benchmark* steps) {
  steps->ArgName("level")->DenseRange(1, 3)->Unit(benchmark::kMicrosecond);
}

}  // namespace

BENCHMARK_CAPTURE(build, fast, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(build, compact, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, fast, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, compact, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(step, uniform_fast, Codes::kUniform, false, Filter::kNone)->Apply(at_levels);
BENCHMARK_CAPTURE(step, uniform_compact, Codes::kUniform, true, Filter::kNone)->Apply(at_levels);
BENCHMARK_CAPTURE(step, skewed_fast, Codes::kSkewed, false, Filter::kNone)->Apply(at_levels);
BENCHMARK_CAPTURE(step, skewed_compact, Codes::kSkewed, true, Filter::kNone)->Apply(at_levels);
BENCHMARK_CAPTURE(step, uniform_filtered, Codes::kUniform, false, Filter::kTenPercent)
    ->Apply(at_levels);
BENCHMARK_CAPTURE(step, skewed_filtered, Codes::kSkewed, false, Filter::kTenPercent)
    ->Apply(at_levels);
BENCHMARK(live_add)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(attend_float, prefill, Tokens::kPrefill)->Apply(with_heads);
BENCHMARK_CAPTURE(attend_float, beams, Tokens::kBeams)->Apply(with_heads);
BENCHMARK_CAPTURE(attend_bfloat16, prefill, Tokens::kPrefill)->Apply(with_heads);
BENCHMARK_CAPTURE(attend_bfloat16, beams, Tokens::kBeams)->Apply(with_heads);
BENCHMARK(item_rows<float>)->Unit(benchmark::kMicrosecond);
BENCHMARK(item_rows<uint16_t>)->Unit(benchmark::kMicrosecond);
BENCHMARK(evidence)->ArgName("items")->Arg(10'000)->Arg(kNumItems)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(rank, unfiltered, Filter::kNone)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(rank, filtered, Filter::kTenPercent)->Unit(benchmark::kMicrosecond);

BENCHMARK_MAIN();
