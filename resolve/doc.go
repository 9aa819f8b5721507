// Package resolve has resolvers for forward.Config: they say where a stream goes, by a
// backend (HTTP), a table of rules (Routes), DNS, or the publisher (FromParam), and
// combine others (FirstOf, Union, With, Cached). They use only what package forward
// exports: a host can write its own in the same way.
package resolve
