// Includes the file that STORE_ENGINE_KERNELS names once per instruction set, each time in the
// target's namespace, with the vectors of lanes.h and with STORE_ENGINE_TARGET, which each of its
// functions begins with. Hence no include guard, here or there. Inside namespace store_engine.

#define STORE_ENGINE_TARGET
namespace baseline {
#include STORE_ENGINE_KERNELS
}  // namespace baseline
#undef STORE_ENGINE_TARGET

#ifdef __x86_64__
#define STORE_ENGINE_TARGET __attribute__((target("avx2,fma")))
namespace avx2 {
#include STORE_ENGINE_KERNELS
}  // namespace avx2
#undef STORE_ENGINE_TARGET

#define STORE_ENGINE_TARGET __attribute__((target("avx512f,avx512dq")))
namespace avx512 {
#include STORE_ENGINE_KERNELS
}  // namespace avx512
#undef STORE_ENGINE_TARGET
#endif  // __x86_64__

#undef STORE_ENGINE_KERNELS
