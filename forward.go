// Package forward is an embeddable RTMP fan-out: encoders publish to a Server,
// and every published stream is pushed, live and untouched, to any number of
// other RTMP servers.
package forward
