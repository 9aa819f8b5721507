package metrics

import (
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rtmp-forward/forward"
)

// metric is a metric of things whose facts are a T.
type metric[T any] struct {
	name   string
	help   string
	kind   prometheus.ValueType
	label  string // that its values have, beside those of the thing; empty: none
	join   join   // of the values of several things
	values func(st *T, put func(label string, v float64))

	desc *prometheus.Desc
}

// join is how one value is made of those of several things.
type join int

const (
	sum join = iota
	greatest
	never // it means nothing for several
)

// gauge is a metric with one value.
func gauge[T any](name, help string, join join, value func(st *T) float64) metric[T] {
	return metric[T]{name: name, help: help, kind: prometheus.GaugeValue, join: join, values: one(value)}
}

// known is a gauge without a value where that would be 0, which means unknown.
func known[T any](name, help string, join join, value func(st *T) float64) metric[T] {
	m := gauge(name, help, join, value)
	m.values = func(st *T, put func(string, float64)) {
		if v := value(st); v != 0 {
			put("", v)
		}
	}
	return m
}

func counter[T any](name, help string, value func(st *T) uint64) metric[T] {
	return metric[T]{
		name: name, help: help, kind: prometheus.CounterValue,
		values: one(func(st *T) float64 { return float64(value(st)) }),
	}
}

func one[T any](value func(st *T) float64) func(*T, func(string, float64)) {
	return func(st *T, put func(string, float64)) { put("", value(st)) }
}

// by gives a metric a label more.
func by[T any](label string, kind prometheus.ValueType, name, help string, values func(st *T, put func(string, float64))) metric[T] {
	return metric[T]{name: name, help: help, kind: kind, label: label, values: values}
}

// states are those in which a destination can be seen.
var states = []forward.State{
	forward.StateWaiting, forward.StateConnecting, forward.StateHandshaking,
	forward.StatePublishing, forward.StateStalled, forward.StateDraining,
}

// ops are the causes of a loss.
var ops = []forward.Op{
	forward.OpResolve, forward.OpDial, forward.OpTLS, forward.OpHandshake, forward.OpConnect,
	forward.OpCreateStream, forward.OpPublish, forward.OpWrite, forward.OpRead, forward.OpPanic,
}

// The causes of a drop.
const (
	late       = "late"
	noKeyframe = "no_keyframe"
)

// lost puts what has occurred, and everything with all.
func lost(of map[forward.Op]uint64, all bool, put func(string, float64)) {
	for _, op := range ops {
		if n := of[op]; n > 0 || all {
			put(string(op), float64(n))
		}
	}
}

// unix is a time as Prometheus has it; 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}

// serverMetrics are those of a Server.
var serverMetrics = describe(nil, []metric[forward.ServerStats]{
	gauge("forward_connections", "Open connections of clients.", sum, func(st *forward.ServerStats) float64 { return float64(st.Connections) }),
	gauge("forward_streams", "Streams that are live or about to be.", sum, func(st *forward.ServerStats) float64 { return float64(st.Streams) }),
	gauge("forward_players", "Clients that play a stream or wait for one.", sum, func(st *forward.ServerStats) float64 { return float64(st.Players) }),
	by("state", prometheus.GaugeValue, "forward_destinations", "Destinations of all streams, by state.", func(st *forward.ServerStats, put func(string, float64)) {
		for _, s := range states {
			put(string(s), float64(st.States[s]))
		}
	}),
	gauge("forward_buffered_bytes", "Memory of the budget that media takes.", sum, func(st *forward.ServerStats) float64 { return float64(st.Buffered) }),
	known("forward_memory_budget_bytes", "Memory that media may take; missing without a limit.", never, func(st *forward.ServerStats) float64 { return float64(st.MemoryBudget) }),
	counter("forward_publishes_total", "Streams that went live.", func(st *forward.ServerStats) uint64 { return st.Publishes }),
	counter("forward_plays_total", "Plays that were accepted.", func(st *forward.ServerStats) uint64 { return st.Plays }),
	counter("forward_refused_total", "Connects, publishes and plays that were refused.", func(st *forward.ServerStats) uint64 { return st.Refused }),
	counter("forward_received_bytes_total", "Bytes of media received from publishers.", func(st *forward.ServerStats) uint64 { return st.ReceivedBytes }),
	counter("forward_received_messages_total", "Messages of media received from publishers.", func(st *forward.ServerStats) uint64 { return st.ReceivedMessages }),
	counter("forward_sent_bytes_total", "Bytes of media sent to destinations and players.", func(st *forward.ServerStats) uint64 { return st.Sent.Bytes }),
	counter("forward_sent_messages_total", "Messages of media sent to destinations and players.", func(st *forward.ServerStats) uint64 { return st.Sent.Messages }),
	counter("forward_push_connects_total", "Connections to destinations that were tried.", func(st *forward.ServerStats) uint64 { return st.Sent.Connects }),
	counter("forward_push_accepted_total", "Publishes that destinations have accepted.", func(st *forward.ServerStats) uint64 { return st.Sent.Accepted }),
	by("op", prometheus.CounterValue, "forward_push_lost_total", "Failed attempts and lost connections of destinations, by the step that failed.", func(st *forward.ServerStats, put func(string, float64)) {
		lost(st.Sent.Lost, true, put)
	}),
	by("cause", prometheus.CounterValue, "forward_push_dropped_messages_total", "Messages not sent to destinations, by cause.", func(st *forward.ServerStats, put func(string, float64)) {
		put(late, float64(st.Sent.DroppedLate))
		put(noKeyframe, float64(st.Sent.DroppedNoKeyframe))
	}),
	by("cause", prometheus.CounterValue, "forward_players_dropped_messages_total", "Messages not sent to players, by cause.", func(st *forward.ServerStats, put func(string, float64)) {
		put(late, float64(st.Sent.PlayersDroppedLate))
		put(noKeyframe, float64(st.Sent.PlayersDroppedNoKeyframe))
	}),
})

// streamMetrics are those of a stream.
var streamMetrics = describe([]string{"stream"}, []metric[forward.SourceStats]{
	known("forward_stream_start_timestamp_seconds", "When the stream began, in seconds since 1970.", never, func(st *forward.SourceStats) float64 { return unix(st.Since) }),
	counter("forward_stream_received_bytes_total", "Bytes of media received.", func(st *forward.SourceStats) uint64 { return st.Bytes }),
	counter("forward_stream_received_messages_total", "Messages of media received.", func(st *forward.SourceStats) uint64 { return st.Messages }),
	counter("forward_stream_frames_total", "Video frames received.", func(st *forward.SourceStats) uint64 { return st.Frames }),
	counter("forward_stream_keyframes_total", "Keyframes received.", func(st *forward.SourceStats) uint64 { return st.Keyframes }),
	gauge("forward_stream_received_bytes_per_second", "Bytes received a second, in the last 5 seconds.", sum, func(st *forward.SourceStats) float64 { return st.Bitrate / 8 }),
	gauge("forward_stream_received_messages_per_second", "Messages received a second, in the last 5 seconds.", sum, func(st *forward.SourceStats) float64 { return st.MessageRate }),
	gauge("forward_stream_frames_per_second", "Video frames received a second, in the last 5 seconds.", sum, func(st *forward.SourceStats) float64 { return st.FrameRate }),
	known("forward_stream_gop_seconds", "Media time between the last two keyframes.", greatest, func(st *forward.SourceStats) float64 { return st.GOP.Seconds() }),
	known("forward_stream_gop_frames", "Video frames between the last two keyframes.", greatest, func(st *forward.SourceStats) float64 { return float64(st.GOPFrames) }),
	counter("forward_stream_codec_changes_total", "Sequence headers that were replaced by others.", func(st *forward.SourceStats) uint64 { return st.CodecChanges }),
	gauge("forward_stream_players", "Players of the stream.", sum, func(st *forward.SourceStats) float64 { return float64(st.Players) }),
	counter("forward_stream_sent_bytes_total", "Bytes of media sent to destinations and players.", func(st *forward.SourceStats) uint64 { return st.Sent.Bytes }),
	counter("forward_stream_sent_messages_total", "Messages of media sent to destinations and players.", func(st *forward.SourceStats) uint64 { return st.Sent.Messages }),
	counter("forward_stream_push_connects_total", "Connections to destinations that were tried.", func(st *forward.SourceStats) uint64 { return st.Sent.Connects }),
	counter("forward_stream_push_accepted_total", "Publishes that destinations have accepted.", func(st *forward.SourceStats) uint64 { return st.Sent.Accepted }),
	by("op", prometheus.CounterValue, "forward_stream_push_lost_total", "Failed attempts and lost connections of destinations, by the step that failed; missing until there is one.", func(st *forward.SourceStats, put func(string, float64)) {
		lost(st.Sent.Lost, false, put)
	}),
	by("cause", prometheus.CounterValue, "forward_stream_push_dropped_messages_total", "Messages not sent to destinations, by cause.", func(st *forward.SourceStats, put func(string, float64)) {
		put(late, float64(st.Sent.DroppedLate))
		put(noKeyframe, float64(st.Sent.DroppedNoKeyframe))
	}),
	by("cause", prometheus.CounterValue, "forward_stream_players_dropped_messages_total", "Messages not sent to players, by cause.", func(st *forward.SourceStats, put func(string, float64)) {
		put(late, float64(st.Sent.PlayersDroppedLate))
		put(noKeyframe, float64(st.Sent.PlayersDroppedNoKeyframe))
	}),
	gauge("forward_stream_log_bytes", "Media kept for receivers that lag and for new ones.", sum, func(st *forward.SourceStats) float64 { return float64(st.LogBytes) }),
	gauge("forward_stream_log_messages", "Messages kept for receivers that lag and for new ones.", sum, func(st *forward.SourceStats) float64 { return float64(st.LogMessages) }),
})

// destinationMetrics are those of a destination.
var destinationMetrics = describe([]string{"destination", "host", "stream"}, []metric[forward.ForwarderStats]{
	by("state", prometheus.GaugeValue, "forward_destination_state", "1 for the state of the destination, 0 for each other state.", func(st *forward.ForwarderStats, put func(string, float64)) {
		for _, s := range states {
			v := 0.0
			if s == st.State {
				v = 1
			}
			put(string(s), v)
		}
	}),
	known("forward_destination_state_timestamp_seconds", "When the state began, in seconds since 1970.", never, func(st *forward.ForwarderStats) float64 { return unix(st.Since) }),
	known("forward_destination_next_attempt_timestamp_seconds", "When the next attempt begins, in seconds since 1970; missing if none is planned.", never, func(st *forward.ForwarderStats) float64 { return unix(st.NextAttempt) }),
	counter("forward_destination_connects_total", "Connections that were tried.", func(st *forward.ForwarderStats) uint64 { return st.Connects }),
	counter("forward_destination_accepted_total", "Publishes that the destination has accepted.", func(st *forward.ForwarderStats) uint64 { return st.Accepted }),
	by("op", prometheus.CounterValue, "forward_destination_lost_total", "Failed attempts and lost connections, by the step that failed; missing until there is one.", func(st *forward.ForwarderStats, put func(string, float64)) {
		lost(st.Lost, false, put)
	}),
	counter("forward_destination_sent_bytes_total", "Bytes of media sent.", func(st *forward.ForwarderStats) uint64 { return st.Bytes }),
	counter("forward_destination_sent_messages_total", "Messages of media sent.", func(st *forward.ForwarderStats) uint64 { return st.Messages }),
	by("cause", prometheus.CounterValue, "forward_destination_dropped_messages_total", "Messages not sent: late, because the destination was too slow, or no_keyframe, because it did not get the keyframe before them.", func(st *forward.ForwarderStats, put func(string, float64)) {
		put(late, float64(st.DroppedLate))
		put(noKeyframe, float64(st.DroppedNoKeyframe))
	}),
	gauge("forward_destination_sent_bytes_per_second", "Bytes sent a second, in the last 5 seconds.", sum, func(st *forward.ForwarderStats) float64 { return st.Bitrate / 8 }),
	gauge("forward_destination_sent_messages_per_second", "Messages sent a second, in the last 5 seconds.", sum, func(st *forward.ForwarderStats) float64 { return st.MessageRate }),
	gauge("forward_destination_frames_per_second", "Video frames sent a second, in the last 5 seconds.", sum, func(st *forward.ForwarderStats) float64 { return st.FrameRate }),
	gauge("forward_destination_lag_messages", "Messages that wait to be sent.", greatest, func(st *forward.ForwarderStats) float64 { return float64(st.Lag) }),
	gauge("forward_destination_lag_bytes", "Bytes that wait to be sent.", greatest, func(st *forward.ForwarderStats) float64 { return float64(st.LagBytes) }),
	gauge("forward_destination_lag_seconds", "How long ago the oldest message that waits to be sent arrived.", greatest, func(st *forward.ForwarderStats) float64 { return st.LagAge.Seconds() }),
	gauge("forward_destination_lag_media_seconds", "Media time of the messages that wait to be sent.", greatest, func(st *forward.ForwarderStats) float64 { return st.LagMedia.Seconds() }),
	gauge("forward_destination_unacked_bytes", "Bytes sent that the destination has not acknowledged; 0 where the system does not tell.", greatest, func(st *forward.ForwarderStats) float64 { return float64(st.Unacked) }),
	known("forward_destination_rtt_seconds", "Round-trip time of the connection; missing where the system does not tell.", greatest, func(st *forward.ForwarderStats) float64 { return st.RTT.Seconds() }),
	known("forward_destination_first_keyframe_seconds", "Time from the answer to publish until the first video was sent.", greatest, func(st *forward.ForwarderStats) float64 { return st.FirstKeyframe.Seconds() }),
	gauge("forward_destination_warning", "1 if the destination may not handle the stream: ForwarderStats.Warning has the sentence.", sum, func(st *forward.ForwarderStats) float64 {
		if st.Warning != "" {
			return 1
		}
		return 0
	}),
})

// describe makes the descriptions of metrics with these labels.
func describe[T any](labels []string, all []metric[T]) []metric[T] {
	for i := range all {
		m := &all[i]
		m.desc = prometheus.NewDesc(m.name, m.help, m.labels(labels), nil)
	}
	return all
}

// labels are those of a metric of things with certain labels.
func (m *metric[T]) labels(of []string) []string {
	if m.label == "" {
		return of
	}
	return append(of[:len(of):len(of)], m.label)
}

// What is no number or has more labels.
var (
	streamInfo = prometheus.NewDesc("forward_stream_info", "1, with the codecs and the format of the stream; id is its ID in the control API.",
		[]string{"stream", "id", "video", "audio", "profile", "width", "height", "sample_rate", "channels"}, nil)
	buildInfo = prometheus.NewDesc("forward_build_info", "1, with the versions of the library and of Go.",
		[]string{"version", "revision", "goversion"}, nil)
	writeLatency = prometheus.NewDesc("forward_write_latency_seconds",
		"Time from the arrival of a message until the connection of a receiver has taken it, the merge window included.", nil, nil)
	firstKeyframe = prometheus.NewDesc("forward_first_keyframe_seconds",
		"Time from a destination's answer to publish until the first video was sent.", nil, nil)
	callSeconds = prometheus.NewDesc("forward_call_seconds",
		"Time that calls of the host's hooks, resolvers and dialers took, by name; missing until the first call.", []string{"call"}, nil)
	callFailures = prometheus.NewDesc("forward_call_failures_total",
		"Calls of the host's hooks, resolvers and dialers that returned an error or panicked.", []string{"call"}, nil)
)

// others are the descriptions beside the tables.
var others = []*prometheus.Desc{streamInfo, buildInfo, writeLatency, firstKeyframe, callSeconds, callFailures}

// info has the values of streamInfo after stream and id. What is not known is empty.
func info(st *forward.SourceStats) []string {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	f := st.Format
	return []string{st.VideoCodec, st.AudioCodec, f.Profile, number(f.Width), number(f.Height), number(f.SampleRate), number(f.Channels)}
}

// build has the values of buildInfo.
func build() []string {
	const path = "github.com/rtmp-forward/forward"
	version, revision, goversion := "", "", ""
	if b, ok := debug.ReadBuildInfo(); ok {
		goversion = b.GoVersion
		if b.Main.Path == path {
			version = b.Main.Version
			for _, s := range b.Settings {
				if s.Key == "vcs.revision" {
					revision = s.Value
				}
			}
		}
		for _, d := range b.Deps {
			if d.Path == path {
				version = d.Version
			}
		}
	}
	return []string{version, revision, goversion}
}
