package control

import (
	"errors"
	"fmt"
	"time"

	"github.com/rtmp-forward/forward"
)

// The JSON of streams and destinations.
type (
	shownSource struct {
		ID         string           `json:"id"`
		Stream     string           `json:"stream"`
		Name       string           `json:"name,omitempty"`
		ClientID   string           `json:"client_id"`
		PublishID  string           `json:"publish_id"`
		IP         string           `json:"ip"`
		Since      time.Time        `json:"since"`
		Bytes      uint64           `json:"bytes"`
		Messages   uint64           `json:"messages"`
		VideoCodec string           `json:"video_codec"`
		AudioCodec string           `json:"audio_codec"`
		Bitrate    uint64           `json:"bitrate"`
		Players    int              `json:"players"`
		Forwarders []shownForwarder `json:"forwarders"`
	}
	shownForwarder struct {
		ID                string        `json:"id"`
		URL               string        `json:"url"`
		State             forward.State `json:"state"`
		Since             time.Time     `json:"since"`
		NextAttempt       time.Time     `json:"next_attempt,omitzero"`
		Connects          uint64        `json:"connects"`
		Accepted          uint64        `json:"accepted"`
		Bytes             uint64        `json:"bytes"`
		Messages          uint64        `json:"messages"`
		DroppedLate       uint64        `json:"dropped_late"`
		DroppedNoKeyframe uint64        `json:"dropped_no_keyframe"`
		Bitrate           uint64        `json:"bitrate"`
		Lag               uint64        `json:"lag"`
		LagMS             int64         `json:"lag_ms"`
		Warning           string        `json:"warning,omitempty"`
		Error             *shownError   `json:"error,omitempty"`
	}
	shownError struct {
		Op      string `json:"op"`
		Code    string `json:"code,omitempty"`
		Message string `json:"message"`
	}
)

func (h *handler) show(src *forward.Source) shownSource {
	st := src.Stats()
	out := shownSource{
		ID: src.ID(), Stream: fmt.Sprint(src), ClientID: src.Request().ClientID, PublishID: src.Request().PublishID, IP: src.Request().IP(),
		Since: st.Since, Bytes: st.Bytes, Messages: st.Messages,
		VideoCodec: st.VideoCodec, AudioCodec: st.AudioCodec, Bitrate: uint64(st.Bitrate), Players: st.Players,
		Forwarders: make([]shownForwarder, 0),
	}
	if h.names {
		out.Name = src.Name()
	}
	for _, f := range src.Forwarders() {
		out.Forwarders = append(out.Forwarders, showForwarder(f))
	}
	return out
}

func showForwarder(f *forward.Forwarder) shownForwarder {
	st := f.Stats()
	out := shownForwarder{
		ID: f.ID(), URL: f.Destination().String(), State: st.State, Since: st.Since, NextAttempt: st.NextAttempt,
		Connects: st.Connects, Accepted: st.Accepted, Bytes: st.Bytes, Messages: st.Messages,
		DroppedLate: st.DroppedLate, DroppedNoKeyframe: st.DroppedNoKeyframe, Bitrate: uint64(st.Bitrate),
		Lag: st.Lag, LagMS: st.LagAge.Milliseconds(),
		Warning: st.Warning,
	}
	if st.LastErr != nil {
		out.Error = &shownError{Message: sentence(st.LastErr)}
		var de *forward.DestinationError
		if errors.As(st.LastErr, &de) {
			out.Error.Op, out.Error.Code = string(de.Op), de.Code
			out.Error.Message = sentence(de.Err)
		}
	}
	return out
}
