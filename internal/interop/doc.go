// Package interop tests against other programs: ffmpeg, nginx with its RTMP module,
// GStreamer, librtmp, OBS and joy4 publish, play and receive pushes. The tests compare
// what comes out with what went in, packet by packet. curl drives the control handler.
//
// They need those programs and the build tag interop:
//
//	go test -tags interop ./internal/interop
//
// A missing program is a failure that names its Debian package. Debian 12 has no
// current FFmpeg and OBS: FORWARD_FFMPEG and FORWARD_OBS name them, and .ci/newer
// downloads both.
package interop
