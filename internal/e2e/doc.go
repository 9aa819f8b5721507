// Package e2e tests whole servers, with publishers, players and destinations of package
// forwardtest. The tests run in memory and in virtual time; those whose names end in
// _Sockets run over loopback. They use the public API only. The README has a table of
// the tested faults.
package e2e
