// Package resolve has resolvers for forward.Config.Resolver. They find the destinations
// of a stream through a backend (HTTP), a table of rules (Routes), DNS, or the
// publisher's URL (FromParam), and combine other resolvers (FirstOf, Union, With,
// Cached). They need nothing that package forward does not export: a host can write its
// own in the same way.
package resolve
