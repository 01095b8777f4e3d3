// doctest's main(), compiled once and beside the tests: it takes longer than they do.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
