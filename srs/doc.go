// Package srs reads SRS's configuration file (LoadConfig) and calls a backend as SRS
// does (Hooks), for a move from SRS to this library.
package srs
