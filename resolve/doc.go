// Package resolve provides resolvers for forward.Config.Resolver. They find the
// destinations of a stream through a backend (HTTP), a table of rules (Routes), DNS, or
// the publisher's URL (FromParam), and combine other resolvers (FirstOf, Union, With,
// Cached). They use only what package forward exports: a host can write its own resolver
// in the same way.
package resolve
