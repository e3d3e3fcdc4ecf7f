/* base.h: version of the contract and the rules that every shared struct keeps.
 *
 * A struct that crosses the border by pointer begins with `uint32_t struct_size`, set to
 * WN_SIZEOF(type) by whoever fills it in, and grows only at its end (rule WN-P-04). A struct that
 * is embedded by value in another (wn_tensor, wn_kv_view, wn_value ...) has no struct_size and is
 * frozen for the life of a major version: it could not grow without moving its container's fields.
 * Fixed-width integers only; padding is named `reserved` and must be zero. */
#ifndef WINNOW_BASE_H
#define WINNOW_BASE_H

#include <stddef.h>
#include <stdint.h>

#define WN_ABI_MAJOR 0u
#define WN_ABI_MINOR 1u
/* A version as one comparable number. */
#define WN_VERSION(major, minor) ((uint32_t)(major) << 16 | (uint32_t)(minor))
#define WN_ABI_VERSION WN_VERSION(WN_ABI_MAJOR, WN_ABI_MINOR)
#define WN_VERSION_MAJOR(version) ((version) >> 16)
#define WN_VERSION_MINOR(version) ((version)&0xffffu)

#if defined(__cplusplus)
#define WN_STATIC_ASSERT(condition, name) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define WN_STATIC_ASSERT(condition, name) _Static_assert(condition, #name)
#else
#define WN_STATIC_ASSERT(condition, name) typedef char wn_assert_##name[(condition) ? 1 : -1]
#endif

/* Size of a shared struct: offset of its last field plus that field's size. WN_STRUCT asserts that
 * this equals sizeof, so that no struct has hidden padding at its end into which a later field
 * would slip without changing the size. */
#define WN_SIZEOF(type) ((uint32_t)sizeof(type))
#define WN_STRUCT(type, last)                                                                      \
    WN_STATIC_ASSERT(sizeof(type) == offsetof(type, last) + sizeof(((type *)0)->last),             \
                     type##_has_no_tail_padding)

/* Does the caller's struct, of struct_size bytes, reach far enough to hold this field? */
#define WN_HAS_FIELD(pointer, type, field)                                                         \
    ((pointer)->struct_size >= offsetof(type, field) + sizeof(((type *)0)->field))

#if defined(__GNUC__)
#define WN_EXPORT __attribute__((visibility("default")))
#define WN_PRINTF(text_at, first_at) __attribute__((format(printf, text_at, first_at)))
#else
#define WN_EXPORT
#define WN_PRINTF(text_at, first_at)
#endif

#endif
