// Package e2e tests whole servers, with publishers, players and destinations of
// package forwardtest: in memory and in virtual time, or over loopback where the name of
// a test ends in _Sockets. It uses what a host can use. The README has a table of the
// faults that are tested.
package e2e
