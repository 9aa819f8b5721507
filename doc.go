// Package forward is an embeddable RTMP fan-out: encoders publish to a Server,
// and every published stream is pushed, live and untouched, to any number of
// other RTMP servers. The same Server serves players.
//
// This program takes every stream that is published to it and pushes it to two
// other servers:
//
//	package main
//
//	import (
//		"log"
//
//		"github.com/rtmp-forward/forward"
//	)
//
//	func main() {
//		srv := forward.NewServer(forward.Config{
//			Addr: "127.0.0.1:1935",
//			Resolver: forward.MustStatic(
//				"127.0.0.1:1936",
//				"rtmp://127.0.0.1:1937/[app]/[stream]",
//			),
//		})
//		log.Fatal(srv.ListenAndServe())
//	}
//
// A stream is one log in memory, and everything that sends is a cursor on it. A
// destination costs one cursor, however slow it is; none waits for another.
//
// # Map
//
// [Config] holds the settings of a [Server], which accepts connections
// ([Server.ListenAndServe], [Server.Serve], [Server.ServeTLS], [Server.ServeConn]) and streams from
// inside the process ([Server.Publish]). It ends with [Server.Shutdown] or
// [Server.Close], and changes its settings with [Server.Reload].
//
// Each live stream is a [Source], found by name with [Server.Source]. Each of
// its destinations is a [Forwarder], which reconnects for as long as the stream
// lives. [Source.Forward] adds one, [Forwarder.Update] and [Forwarder.Shutdown]
// change it.
//
// A [DestinationResolver] decides where a stream goes: [Static], a function as
// [ResolverFunc], or one of package resolve. A [Destination] is a URL and its
// options.
//
// [Hooks] decide who may publish and play, and are told what happens.
//
// The host reads a stream with [Source.Subscribe] (messages) or [Source.Demuxer]
// (packets of joy4), and writes one with a [Publisher].
//
// Beside this package are resolve, whose resolvers ask a backend over HTTP, a table,
// DNS or the publisher; srs, which reads SRS's configuration file and calls its HTTP
// callbacks; auth, which checks and signs URLs; control, an HTTP interface for
// operators; flv, which reads and writes files of messages; forwardtest, which tests
// hosts with scripted destinations, players and faults; and examples, of which
// forwardd is a server with a configuration file. The directory docs describes how it
// works inside.
package forward
