// store_engine._C.Evidence and best_of_sum
#include "store_engine/search/evidence.h"

#include <cmath>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/objects.h"
#include "store_engine/search/best_of_sum.h"

namespace store_engine::bindings {

// The matrix, and the arrays that it is in.
class Evidence {
 public:
  Evidence(const NumpyArray<int64_t>& indptr, NumpyArray<int32_t> indices, NumpyArray<float> data)
      : indices_(std::move(indices)),
        data_(std::move(data)),
        size_(checked_size(indptr)),
        matrix_(make_matrix(indptr)) {}

  int64_t num_items() const { return matrix_.num_items(); }
  int64_t num_entries() const { return size_; }

  py::tuple top(const NumpyArray<int64_t>& history_rows, const NumpyArray<int64_t>& offsets,
                float decay, int64_t num_recent, int64_t k, const py::object& item_filter,
                int64_t num_threads) const {
    const std::vector<int64_t> begins = checked_histories(history_rows, offsets);
    const RecentEvents events = events_of(history_rows, begins, decay, num_recent);
    check_num_slots(events.batch, "k", k);
    check_num_threads(num_threads);
    const ItemFilter* filter = filter_of(item_filter, events.batch);
    const std::vector<py::ssize_t> shape{events.batch, k};
    py::array_t<int64_t> rows(shape);
    py::array_t<float> scores(shape);
    const RankingOut out{k, rows.mutable_data(), scores.mutable_data()};
    {
      py::gil_scoped_release release;
      top_evidence(matrix_, events, filter, num_threads, out);
    }
    return py::make_tuple(rows, scores);
  }

  py::array_t<float> score(const NumpyArray<int64_t>& history_rows,
                           const NumpyArray<int64_t>& offsets, float decay, int64_t num_recent,
                           const NumpyArray<int64_t>& rows, int64_t num_threads) const {
    const std::vector<int64_t> begins = checked_histories(history_rows, offsets);
    const RecentEvents events = events_of(history_rows, begins, decay, num_recent);
    const int64_t width = checked_width(rows, events.batch);
    check_num_threads(num_threads);
    py::array_t<float> scores(std::vector<py::ssize_t>{events.batch, width});
    float* result = scores.mutable_data();
    {
      py::gil_scoped_release release;
      score_evidence(matrix_, events, rows.data(), width, num_threads, result);
    }
    return scores;
  }

  py::array_t<float> sum_terms(const NumpyArray<int64_t>& history_rows,
                               const NumpyArray<int64_t>& offsets, int64_t num_recent,
                               const NumpyArray<int64_t>& rows, const NumpyArray<uint16_t>& halfs,
                               const NumpyArray<float>& decays, int64_t num_threads) const {
    const std::vector<int64_t> begins = checked_histories(history_rows, offsets);
    const RecentEvents events = events_of(history_rows, begins, 1, num_recent);
    const int64_t width = checked_width(rows, events.batch);
    require_1d(decays, "decays");
    const int64_t num_terms = decays.size();
    require_in("num_terms", num_terms, 1, 64);
    require_shape(halfs, "halfs", {size_, num_terms}, "(num_entries, num_terms)");
    check_num_threads(num_threads);
    py::array_t<float> sums(std::vector<py::ssize_t>{events.batch, width, num_terms});
    const TermVotes terms{halfs.data(), num_terms, decays.data()};
    float* result = sums.mutable_data();
    {
      py::gil_scoped_release release;
      store_engine::sum_terms(matrix_, terms, events, rows.data(), width, num_threads, result);
    }
    return sums;
  }

 private:
  // Returns the number of entries.
  int64_t checked_size(const NumpyArray<int64_t>& indptr) const {
    require_1d(indptr, "indptr");
    require_1d(indices_, "indices");
    if (indptr.size() < 1) throw py::value_error("indptr must have shape (num_items + 1,)");
    require_in("num_items", indptr.size() - 1, 0, int64_t{1} << 31);
    require_shape(data_, "data", {indices_.size()}, "(num_entries,) as indices");
    return indices_.size();
  }
  EvidenceMatrix make_matrix(const NumpyArray<int64_t>& indptr) const {
    const int64_t* begins = indptr.data();
    const int64_t num_items = indptr.size() - 1;
    const int32_t* indices = indices_.data();
    const float* data = data_.data();
    py::gil_scoped_release release;
    return {begins, num_items, indices, data, size_};
  }
  // Copies where each history begins.
  std::vector<int64_t> checked_histories(const NumpyArray<int64_t>& history_rows,
                                         const NumpyArray<int64_t>& offsets) const {
    // Python may have given the arrays another shape, which does not matter, or other memory
    if (indices_.data() != matrix_.indices || data_.data() != matrix_.data ||
        indices_.size() != size_ || data_.size() != size_) {
      throw py::value_error("the matrix was resized");
    }
    require_1d(history_rows, "history_rows");
    require_1d(offsets, "offsets");
    if (offsets.size() < 1) throw py::value_error("offsets must have shape (batch + 1,)");
    require_in("batch", offsets.size() - 1, 0, kMaxBatch);
    return checked_offsets(offsets, "offsets", offsets.size() - 1, history_rows.size());
  }
  static int64_t checked_width(const NumpyArray<int64_t>& rows, int64_t batch) {
    if (rows.ndim() != 2 || rows.shape(0) != batch) {
      throw py::value_error("rows must have shape (batch, width), and batch be " +
                            std::to_string(batch));
    }
    return rows.shape(1);
  }
  static RecentEvents events_of(const NumpyArray<int64_t>& history_rows,
                                const std::vector<int64_t>& begins, float decay,
                                int64_t num_recent) {
    if (!(decay >= 0 && decay <= 1)) {
      throw py::value_error("decay must be in [0, 1], got " + std::to_string(decay));
    }
    if (num_recent < 1) {
      throw py::value_error("num_recent must be at least 1, got " + std::to_string(num_recent));
    }
    return {history_rows.data(), begins.data(), static_cast<int64_t>(begins.size()) - 1, decay,
            num_recent};
  }

  const NumpyArray<int32_t> indices_;
  const NumpyArray<float> data_;
  const int64_t size_;
  const EvidenceMatrix matrix_;
};

py::tuple call_best_of_sum(const NumpyArray<int64_t>& rows, const NumpyArray<float>& logprobs,
                           const NumpyArray<float>& evidence, const NumpyArray<int32_t>& sids,
                           int64_t k, int64_t num_threads) {
  if (rows.ndim() != 2) throw py::value_error("rows must be 2-D (batch, width)");
  if (sids.ndim() != 2) throw py::value_error("sids must be 2-D (num_items, num_levels)");
  const int64_t batch = rows.shape(0), width = rows.shape(1), num_items = sids.shape(0);
  require_shape(logprobs, "logprobs", {batch, width}, "(batch, width) as rows");
  require_shape(evidence, "evidence", {batch, width}, "(batch, width) as rows");
  check_num_slots(batch, "k", k);
  check_num_threads(num_threads);
  for (int64_t i = 0; i < rows.size(); ++i) {
    if (rows.data()[i] >= num_items) require_in("a row", rows.data()[i], -1, num_items - 1);
  }
  const std::vector<py::ssize_t> shape{batch, k};
  py::array_t<int64_t> best(shape);
  py::array_t<float> its_logprobs(shape), its_evidence(shape);
  const Candidates candidates{rows.data(), logprobs.data(), evidence.data(), sids.data(),
                              batch,       width,           sids.shape(1)};
  const BestOut out{k, best.mutable_data(), its_logprobs.mutable_data(),
                    its_evidence.mutable_data()};
  {
    py::gil_scoped_release release;
    best_of_sum(candidates, num_threads, out);
  }
  return py::make_tuple(best, its_logprobs, its_evidence);
}

void bind_evidence(py::module_& m) {
  py::class_<Evidence>(m, "Evidence")
      .def(py::init<const NumpyArray<int64_t>&, NumpyArray<int32_t>, NumpyArray<float>>(),
           "indptr"_a, "indices"_a, "data"_a)
      .def_property_readonly("num_items", &Evidence::num_items)
      .def_property_readonly("num_entries", &Evidence::num_entries)
      .def("top", &Evidence::top, "history_rows"_a, "offsets"_a, "decay"_a, integer("num_recent"),
           integer("k"), py::kw_only(), "item_filter"_a = py::none(), integer("num_threads") = 1)
      .def("score", &Evidence::score, "history_rows"_a, "offsets"_a, "decay"_a,
           integer("num_recent"), "rows"_a, py::kw_only(), integer("num_threads") = 1)
      .def("sum_terms", &Evidence::sum_terms, "history_rows"_a, "offsets"_a, integer("num_recent"),
           "rows"_a, "halfs"_a, "decays"_a, py::kw_only(), integer("num_threads") = 1);
  m.def("best_of_sum", &call_best_of_sum, "rows"_a, "logprobs"_a, "evidence"_a, "sids"_a,
        integer("k"), py::kw_only(), integer("num_threads") = 1);
}

}  // namespace store_engine::bindings
