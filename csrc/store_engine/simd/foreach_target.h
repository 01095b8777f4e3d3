// Includes the file that STORE_ENGINE_KERNELS names once per target, each time in the target's
// namespace and with STORE_ENGINE_TARGET, which each of its functions begins with. Hence neither
// this file nor that one, NAME-inl.h, has an include guard. Use it inside namespace
// store_engine::simd.
// Source: Highway's foreach_target.h, https://github.com/google/highway (hwy/foreach_target.h).

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
