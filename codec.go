package forward

import (
	"errors"
	"fmt"
	"time"

	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// UnsupportedCodecError says that the stream has a codec which is not among
// those that the destination has listed in its answer to connect (Enhanced
// RTMP v2, Enhancing NetConnection connect Command: fourCcList,
// videoFourCcInfoMap, audioFourCcInfoMap), or that its platform takes.
//
// That alone keeps nothing from being sent: the specification has servers state
// what they support but does not say that all else is refused, and there are
// servers whose list is too short, or from before a codec that they take. It is
// a warning (ForwarderStats.Warning), and where the destination ends such a
// connection before it was Backoff.Healthy, the cause: what comes next is as
// after a refusal.
type UnsupportedCodecError struct {
	Codec string // the FourCC, such as hvc1

	platform string
}

func (e *UnsupportedCodecError) Error() string {
	if e.platform != "" {
		return fmt.Sprintf("%s is not among the codecs that %s takes", e.Codec, e.platform)
	}
	return fmt.Sprintf("%s is not among the codecs that the destination lists", e.Codec)
}

// errNoAudio says that the stream has none and the platform needs it.
var errNoAudio = errors.New("the stream has no audio, which the platform needs")

// codecsKnown is how long after the answer to publish the codecs are looked at
// for the log. The first destinations are there before the first message.
const codecsKnown = 5 * time.Second

// untaken is an *UnsupportedCodecError where the stream has a codec that the
// server does not list, as far as the codecs are known yet. Codecs that can be
// sent without Enhanced RTMP too need not be listed.
func (t *target) untaken(c *rtmp.Client) error {
	info := t.src.log.Info()
	if p := t.Endpoint.Profile; p != nil && p.Video != 0 && info.Video != 0 && info.Video != p.Video {
		return &UnsupportedCodecError{info.Video.String(), p.Title}
	}
	switch info.Video {
	case flv.CodecHEVC, flv.CodecAV1, flv.CodecVP9, flv.CodecVP8, flv.CodecVVC:
		if !c.Takes(false, info.Video.String()) {
			return &UnsupportedCodecError{Codec: info.Video.String()}
		}
	}
	switch info.Audio {
	case flv.CodecOpus, flv.CodecFLAC, flv.CodecAC3, flv.CodecEAC3:
		if !c.Takes(true, info.Audio.String()) {
			return &UnsupportedCodecError{Codec: info.Audio.String()}
		}
	}
	return nil
}

// missing is errNoAudio where that is so, as soon as it can be known.
func (t *target) missing() error {
	info := t.src.log.Info()
	if p := t.Endpoint.Profile; p == nil || !p.Audio || info.Audio != 0 || info.Video == 0 || time.Since(t.src.began) < codecsKnown {
		return nil
	}
	return errNoAudio
}

// untakenBy is what untaken, if l is there, or missing says.
func (t *target) untakenBy(l *upstream.Link) error {
	if l != nil {
		if err := t.untaken(l.Client); err != nil {
			return err
		}
	}
	return t.missing()
}

// warnOfCodec logs what untakenBy says, once for each target.
func (t *target) warnOfCodec(l *upstream.Link) {
	if err := t.untakenBy(l); err != nil && !t.warned.Swap(true) {
		t.Log.Warn("destination may not take all", "warning", err)
	}
}

// changeInterval is how often a stream's host is told at most that its codec has
// changed.
const changeInterval = time.Second

// codecChanged says that the stream goes on with another sequence header.
func (s *Source) codecChanged() {
	s.codecChanges.Add(1)
	if !s.tellsChange.Swap(true) {
		s.background(s.tellChanges)
	}
}

// tellChanges logs that the codec has changed and calls OnCodecChange, until it
// has told of all changes.
func (s *Source) tellChanges() {
	for s.publishing.Err() == nil {
		if n := s.codecChanges.Load(); n != s.toldChanges {
			s.toldChanges = n
			st := s.Stats()
			s.srv.log.Info("codec changed", "source", s.req.logName(), "video", st.VideoCodec, "audio", st.AudioCodec)
			if f := s.cfg.Hooks.OnCodecChange; f != nil {
				s.srv.guard("OnCodecChange", func() error { f(s); return nil })
			}
			select {
			case <-s.publishing.Done():
			case <-time.After(changeInterval):
			}
			continue
		}
		told := s.toldChanges // which is another goroutine's from here on
		s.tellsChange.Store(false)
		if s.codecChanges.Load() == told || s.tellsChange.Swap(true) {
			return
		}
	}
}
