// Package outsider stands for the package of a host. It has a resolver that asks a
// backend over HTTP and a handler for operators, as packages resolve and control have
// them, and imports nothing of this module except package forward. Its tests show that
// the public API is enough for both.
package outsider
