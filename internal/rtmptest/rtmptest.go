// Package rtmptest builds raw RTMP byte for byte: chunks, messages, commands and bodies
// of media. Only tests import it.
//
// Functions that return strings are for tables of exact bytes; those that return slices
// are for writing. No function checks its arguments, so tests can build malformed data.
package rtmptest
