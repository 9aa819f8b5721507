// Package interop holds the tests against peers that others wrote: ffmpeg,
// nginx with its RTMP module, GStreamer, librtmp, OBS and joy4 publish, play and
// are pushed to, and what comes out is compared with what went in, packet for
// packet. curl drives the control handler.
//
// They need those programs and the build tag interop:
//
//	go test -tags interop ./internal/interop
//
// A program that is missing is a failure that names its Debian package. A
// current FFmpeg and OBS, which Debian 12 does not have, are there where
// FORWARD_FFMPEG and FORWARD_OBS name them; .ci/newer gets both.
package interop
