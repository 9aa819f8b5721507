package status

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// The data of the page.
type (
	shown struct {
		Now      time.Time       `json:"now"`
		Server   shownServer     `json:"server"`
		Pictures bool            `json:"pictures"`
		Sources  []shownSource   `json:"sources"`
		Events   []forward.Event `json:"events"` // the latest last
	}
	shownServer struct {
		Streams      int    `json:"streams"`
		Players      int    `json:"players"`
		Destinations int    `json:"destinations"`
		Publishing   int    `json:"publishing"` // of the destinations
		Connections  int    `json:"connections"`
		BitrateIn    uint64 `json:"bitrate_in"`  // bits a second, of all streams
		BitrateOut   uint64 `json:"bitrate_out"` // bits a second, to all destinations
		Received     uint64 `json:"received"`    // bytes
		Sent         uint64 `json:"sent"`        // bytes
		Refused      uint64 `json:"refused"`
		Buffered     int    `json:"buffered"`      // bytes
		MemoryBudget int    `json:"memory_budget"` // bytes; 0: none
	}
	shownSource struct {
		ID         string           `json:"id"`
		Stream     string           `json:"stream"`
		IP         string           `json:"ip"`
		Since      time.Time        `json:"since"`
		VideoCodec string           `json:"video_codec"`
		AudioCodec string           `json:"audio_codec"`
		Width      int              `json:"width"`
		Height     int              `json:"height"`
		Profile    string           `json:"profile"`
		SampleRate int              `json:"sample_rate"` // Hz
		Channels   int              `json:"channels"`
		Bitrate    uint64           `json:"bitrate"`    // bits a second
		FrameRate  float64          `json:"frame_rate"` // frames a second
		GOPMS      int64            `json:"gop_ms"`
		Players    int              `json:"players"`
		Forwarders []shownForwarder `json:"forwarders"`
	}
	shownForwarder struct {
		ID          string        `json:"id"`
		URL         string        `json:"url"`
		State       forward.State `json:"state"`
		Since       time.Time     `json:"since"`
		NextAttempt time.Time     `json:"next_attempt,omitzero"`
		Connects    uint64        `json:"connects"`
		Accepted    uint64        `json:"accepted"`
		Dropped     uint64        `json:"dropped"`    // messages
		Bitrate     uint64        `json:"bitrate"`    // bits a second
		FrameRate   float64       `json:"frame_rate"` // frames a second
		LagMS       int64         `json:"lag_ms"`
		RTTMS       float64       `json:"rtt_ms"` // 0: not known
		Warning     string        `json:"warning,omitempty"`
		Cause       string        `json:"cause,omitempty"` // of the last failure
	}
)

func (h *handler) show() shown {
	st := h.srv.Stats()
	out := shown{
		Now: time.Now(), Pictures: h.options.Pictures,
		Server: shownServer{
			Streams: st.Streams, Players: st.Players, Destinations: st.Destinations, Connections: st.Connections,
			Publishing: st.States[forward.StatePublishing],
			Received:   st.ReceivedBytes, Sent: st.Sent.Bytes, Refused: st.Refused, Buffered: st.Buffered, MemoryBudget: st.MemoryBudget,
		},
		Sources: make([]shownSource, 0, st.Streams), Events: h.recent.all(),
	}
	for _, src := range h.srv.Sources() {
		s := h.showSource(src)
		out.Server.BitrateIn += s.Bitrate
		for _, f := range s.Forwarders {
			out.Server.BitrateOut += f.Bitrate
		}
		out.Sources = append(out.Sources, s)
	}
	return out
}

func (h *handler) showSource(src *forward.Source) shownSource {
	st := src.Stats()
	out := shownSource{
		ID: src.ID(), Stream: fmt.Sprint(src), IP: src.Request().IP(), Since: st.Since,
		VideoCodec: st.VideoCodec, AudioCodec: st.AudioCodec, Width: st.Format.Width, Height: st.Format.Height,
		Profile: st.Format.Profile, SampleRate: st.Format.SampleRate, Channels: st.Format.Channels,
		Bitrate: uint64(st.Bitrate), FrameRate: tenths(st.FrameRate), GOPMS: st.GOP.Milliseconds(), Players: st.Players,
		Forwarders: make([]shownForwarder, 0),
	}
	if h.options.Names {
		out.Stream = src.Name()
	}
	for _, f := range src.Forwarders() {
		out.Forwarders = append(out.Forwarders, showForwarder(f))
	}
	return out
}

func showForwarder(f *forward.Forwarder) shownForwarder {
	st := f.Stats()
	return shownForwarder{
		ID: f.ID(), URL: f.Destination().String(), State: st.State, Since: st.Since, NextAttempt: st.NextAttempt,
		Connects: st.Connects, Accepted: st.Accepted, Dropped: st.DroppedLate + st.DroppedNoKeyframe,
		Bitrate: uint64(st.Bitrate), FrameRate: tenths(st.FrameRate),
		LagMS: st.LagAge.Milliseconds(), RTTMS: tenths(float64(st.RTT) / float64(time.Millisecond)),
		Warning: st.Warning, Cause: cause(st.LastErr),
	}
}

// cause is the text of a destination's error, without its URL, which the page has
// beside it.
func cause(err error) string {
	var de *forward.DestinationError
	if !errors.As(err, &de) {
		if err == nil {
			return ""
		}
		return hostcode.Text(err)
	}
	text := hostcode.Text(de.Err)
	if de.Code != "" {
		text = de.Code + ": " + text
	}
	if op := string(de.Op); !strings.HasPrefix(text, op) {
		text = op + ": " + text
	}
	return text
}

// tenths rounds, so that the page does not get digits that it does not show.
func tenths(v float64) float64 { return math.Round(v*10) / 10 }

// maxRecent is how many events the page has.
const maxRecent = 50

// recent are the latest events.
type recent struct {
	mu     sync.Mutex
	events []forward.Event
}

// keep keeps the latest of events, until their end. It leaves out the steps of a
// connection: EventRetry tells that one has failed.
func (r *recent) keep(events iter.Seq[forward.Event]) {
	for ev := range events {
		switch ev.State {
		case forward.StateWaiting, forward.StateConnecting, forward.StateHandshaking:
			continue
		}
		ev.Err = nil // of which the page has the Cause
		r.mu.Lock()
		if len(r.events) == maxRecent {
			r.events = slices.Delete(r.events, 0, 1)
		}
		r.events = append(r.events, ev)
		r.mu.Unlock()
	}
}

func (r *recent) all() []forward.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(make([]forward.Event, 0, len(r.events)), r.events...)
}
