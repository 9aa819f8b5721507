// Package outsider stands for the package of a host. Like packages resolve and control
// it has a resolver that asks a backend over HTTP, and a handler for operators, but it
// imports only package forward of this module. Its tests show that the public API is
// enough for both.
package outsider
