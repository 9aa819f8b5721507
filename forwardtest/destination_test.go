package forwardtest_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

func TestDestinationRecordsAPush(t *testing.T) {
	bubble(t, pushing, func(w *world) {
		d := w.destination()
		p := w.publish()
		s := w.Published(d, 1)
		require.NoError(w, p.Send(w.Ctx, media.Messages(3*time.Second), 1))
		require.NoError(w, p.Unpublish())
		_, err := s.WaitCommand(w.Ctx, "deleteStream")
		require.NoError(w, err)
		<-s.Done()

		require.Equal(w, io.EOF, s.Err())
		require.Equal(w, []string{"connect", "releaseStream", "FCPublish", "createStream", "publish", "FCUnpublish", "deleteStream"}, names(s))
		require.Equal(w, collect(media, 3*time.Second), s.Recorder().Messages())
		s.Recorder().Check(w)
		r := s.Recorder().Report()
		require.Equal(w, 3, r.Keyframes)
		require.Equal(w, uint64(r.Frames), r.Last)
		connect := s.Commands()[0]
		require.Equal(w, "live", connect.Args[0].(map[string]any)["app"])
	})
}

// Each row is a step that ends an attempt. The cause must name the step.
func TestStepsThatEndAnAttempt(t *testing.T) {
	step := func(name string, s forwardtest.Step) forwardtest.Script {
		return forwardtest.Script{Steps: map[string]forwardtest.Step{name: s}}
	}
	tests := []struct {
		name   string
		script forwardtest.Script
		op     string
		code   string
		after  time.Duration
	}{
		// The handshake is tried in its other form at once.
		{"handshake closed", step("handshake", forwardtest.Step{Do: func(s *forwardtest.Session) { s.Close() }}), "handshake", "", 0},
		{"connect refused", step("connect", forwardtest.Step{Refuse: "NetConnection.Connect.Rejected"}), "connect", "NetConnection.Connect.Rejected", 0},
		{"createStream refused", step("createStream", forwardtest.Step{Refuse: "NetConnection.Call.Failed"}), "createStream", "NetConnection.Call.Failed", 0},
		{"publish refused", step("publish", forwardtest.Step{Refuse: "NetStream.Publish.BadName"}), "publish", "NetStream.Publish.BadName", 0},
		{"handshake silent", step("handshake", forwardtest.Step{Silent: true}), "handshake", "", 5 * time.Second},
		{"connect silent", step("connect", forwardtest.Step{Silent: true}), "connect", "", 5 * time.Second},
		{"createStream silent", step("createStream", forwardtest.Step{Silent: true}), "createStream", "", 35 * time.Second},
		{"publish silent", step("publish", forwardtest.Step{Silent: true}), "publish", "", 35 * time.Second},
		{"publish late", step("publish", forwardtest.Step{Delay: 36 * time.Second}), "publish", "", 35 * time.Second},
		{"connect closed", step("connect", forwardtest.Step{Do: func(s *forwardtest.Session) { s.Close() }}), "connect", "", 0},
		{"publish reset", step("publish", forwardtest.Step{Do: (*forwardtest.Session).Reset}), "publish", "", 0},
		{"publish stalled", step("publish", forwardtest.Step{Do: (*forwardtest.Session).Stall}), "publish", "", 35 * time.Second},
		{"answers cut off", forwardtest.Script{Faults: forwardtest.Faults{Write: forwardtest.Fault{Cut: 3200}}}, "connect", "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			type attempt struct {
				err   error
				after time.Duration
			}
			var failed chan attempt // made in the bubble
			var began time.Time
			cfg := pushing
			cfg.Hooks.OnForward = func(f *forward.Forwarder, state forward.State, err error) {
				switch state {
				case forward.StateHandshaking:
					began = time.Now()
				case forward.StateWaiting:
					select {
					case failed <- attempt{err, time.Since(began)}:
					default:
					}
				}
			}
			bubble(t, cfg, func(w *world) {
				failed = make(chan attempt, 1)
				scripts := []forwardtest.Script{test.script}
				if test.name == "handshake closed" {
					scripts = append(scripts, test.script)
				}
				d := w.destination(append(scripts, forwardtest.Script{})...)
				p := w.publish()
				go p.Send(w.Ctx, media.Messages(-1), 1)
				a := <-failed
				var de *forward.DestinationError
				require.ErrorAs(w, a.err, &de)
				require.Equal(w, forward.Op(test.op), de.Op)
				require.Equal(w, test.code, de.Code)
				require.Equal(w, test.after, a.after)
				require.Equal(w, test.code == "", de.Temporary())

				// The next attempt succeeds.
				s := w.Published(d, len(scripts)+1)
				require.NoError(w, s.Recorder().WaitFrames(w.Ctx, 100))
				s.Recorder().Check(w)
				p.Close()
			})
		})
	}
}

// Each row is a server that differs and is pushed to nevertheless.
func TestStepsThatDiffer(t *testing.T) {
	tests := []struct {
		name   string
		script forwardtest.Script
	}{
		{"message stream 7", forwardtest.Script{StreamID: 7}},
		{"no answer to releaseStream and FCPublish", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"releaseStream": {Silent: true}, "FCPublish": {Silent: true},
		}}},
		{"errors for releaseStream and FCPublish", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"releaseStream": {Refuse: "NetConnection.Call.Failed"}, "FCPublish": {Refuse: "NetConnection.Call.Failed"},
		}}},
		{"answers out of order", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"releaseStream": {After: "createStream"}, "FCPublish": {After: "createStream"},
		}}},
		{"answers after publish", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"releaseStream": {After: "publish"}, "FCPublish": {After: "publish", Refuse: "NetConnection.Call.Failed"},
		}}},
		{"transaction id 0", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"connect": {ZeroTransaction: true}, "createStream": {ZeroTransaction: true}, "publish": {ZeroTransaction: true},
		}}},
		{"slow answers", forwardtest.Script{Steps: map[string]forwardtest.Step{
			"handshake": {Delay: time.Second}, "connect": {Delay: time.Second}, "createStream": {Delay: time.Second}, "publish": {Delay: time.Second},
		}}},
		{"answers after 4 s, as behind hooks", forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Delay: 4 * time.Second}}}},
		{"chunks of 1 byte", forwardtest.Script{ChunkSize: 1, At: map[int]func(*forwardtest.Session){
			1: func(s *forwardtest.Session) { s.Send(0, "onBWDone", 0, nil, 8192) },
		}}},
		{"chunks of 64 KiB", forwardtest.Script{ChunkSize: 65536}},
		{"a byte at a time", forwardtest.Script{Faults: forwardtest.Faults{
			Read: forwardtest.Fault{Max: 1}, Write: forwardtest.Fault{Max: 1},
		}}},
		{"slow line", forwardtest.Script{Faults: forwardtest.Faults{
			Read: forwardtest.Fault{Rate: 200_000, Delay: time.Millisecond}, Write: forwardtest.Fault{Rate: 10_000, Delay: time.Millisecond},
		}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, pushing, func(w *world) {
				d := w.destination(test.script)
				p := w.publish()
				go p.Send(w.Ctx, media.Messages(-1), 1)
				s := w.Published(d, 1)
				require.NoError(w, s.Recorder().WaitFrames(w.Ctx, 300))
				s.Recorder().Check(w)
				require.Len(w, d.Sessions(), 1)
				p.Close()
			})
		})
	}
}

func TestAtAMessage(t *testing.T) {
	tests := []struct {
		name string
		do   func(*forwardtest.Session)
		op   string
		code string
		is   error
	}{
		{"close", func(s *forwardtest.Session) { s.Close() }, "read", "", io.EOF},
		{"reset", (*forwardtest.Session).Reset, "read", "", syscall.ECONNRESET},
		{"stall", (*forwardtest.Session).Stall, "write", "", nil},
		{"status", func(s *forwardtest.Session) { s.Status("NetStream.Publish.BadName", "Replaced.") }, "read", "NetStream.Publish.BadName", nil},
		{"raw bytes", func(s *forwardtest.Session) { s.Write([]byte{0xff, 0xff, 0xff, 0xff}) }, "read", "", nil},
		{"close command", func(s *forwardtest.Session) { s.Send(0, "close", 0, nil) }, "read", "close", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, pushing, func(w *world) {
				d := w.destination(
					forwardtest.Script{At: map[int]func(*forwardtest.Session){100: test.do}},
					forwardtest.Script{})
				p := w.publish()
				go p.Send(w.Ctx, media.Messages(-1), 1)
				s := w.Published(d, 1)
				second := w.Published(d, 2)
				var de *forward.DestinationError
				require.ErrorAs(w, w.forwarder().Stats().LastErr, &de)
				require.Equal(w, test.code, de.Code)
				if test.is != nil {
					require.True(w, errors.Is(de, test.is), "%v", de)
				}
				if test.name == "stall" {
					require.Equal(w, forward.OpWrite, de.Op)
				}
				require.NoError(w, second.Recorder().WaitFrames(w.Ctx, 100))
				second.Recorder().Check(w)
				s.Recorder().Check(w)
				require.GreaterOrEqual(w, s.Recorder().Report().Messages, 100)
				p.Close()
			})
		})
	}
}

// A destination slower than the stream gets whole runs from a keyframe on.
func TestSlowReader(t *testing.T) {
	bubble(t, pushing, func(w *world) {
		d := w.destination(forwardtest.Script{
			Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: 40_000}},
			Recorder: func() *forwardtest.Recorder { return &forwardtest.Recorder{Gaps: true, Discard: true} },
		})
		p := w.publish()
		s := w.Published(d, 1)
		require.NoError(w, p.Send(w.Ctx, media.Messages(2*time.Minute), 1))
		s.Recorder().Check(w)
		r := s.Recorder().Report()
		require.Positive(w, r.Gaps)
		require.Positive(w, r.Missing)
		require.Empty(w, s.Recorder().Messages())
		require.Len(w, d.Sessions(), 1)
		require.Positive(w, w.forwarder().Stats().DroppedLate)
	})
}

func TestDestinationOverTCP(t *testing.T) {
	a := forwardtest.NewDestination()
	defer a.Close()
	b := forwardtest.NewDestination(
		forwardtest.Script{At: map[int]func(*forwardtest.Session){50: (*forwardtest.Session).Reset}},
		forwardtest.Script{})
	defer b.Close()
	srv := forward.NewServer(forward.Config{
		Logger:   logger(t),
		Resolver: forward.MustStatic(a.URL("live/a"), b.URL("live/b")),
		Backoff:  forward.Backoff{Min: time.Millisecond},
	})
	defer srv.Close()
	p, err := forwardtest.Client{Dial: forwardtest.Direct(srv)}.Publish(t.Context())
	require.NoError(t, err)
	defer p.Close()

	first, err := b.WaitSession(t.Context(), 1)
	require.NoError(t, err)
	_, err = first.WaitCommand(t.Context(), "publish")
	require.NoError(t, err)
	// What is missed while b is gone is in the log.
	require.NoError(t, p.Send(t.Context(), media.Messages(10*time.Second), 0))
	var sessions []*forwardtest.Session
	for n, d := range []*forwardtest.Destination{a, b} {
		s, err := d.WaitSession(t.Context(), n+1)
		require.NoError(t, err)
		_, err = s.WaitCommand(t.Context(), "publish")
		require.NoError(t, err)
		sessions = append(sessions, s)
	}
	// Media goes out with them publishing, so that both get some.
	next := media
	next.ID = 1
	next.Start = 10_000
	require.NoError(t, p.Send(t.Context(), next.Messages(time.Second), 0))
	for _, s := range sessions {
		require.NoError(t, s.Recorder().Wait(t.Context(), func(r forwardtest.Report) bool { return r.Last == 72 }))
		s.Recorder().Check(t)
	}
	<-first.Done()
	require.Error(t, first.Err())
}

func TestDestinationClose(t *testing.T) {
	bubble(t, pushing, func(w *world) {
		d := w.destination(forwardtest.Script{At: map[int]func(*forwardtest.Session){1: (*forwardtest.Session).Stall}})
		p := w.publish()
		s := w.Published(d, 1)
		require.NoError(w, p.Send(w.Ctx, media.Messages(time.Second), 1))
		require.NoError(w, d.Close())
		select {
		case <-s.Done():
		default:
			w.Fatal("Close has returned before its sessions have ended")
		}
		_, err := w.Net.Dial(w.Ctx, "tcp", "a:1935")
		require.ErrorIs(w, err, syscall.ECONNREFUSED)
		synctest.Wait()
	})
}

// A connection that is cut in the middle of anything leaves nothing behind:
// what came before is in order, the next connection starts over.
func TestCutAnywhere(t *testing.T) {
	const handshake = 1 + 2*1536
	for at := int64(handshake); at < handshake+6000; at += 41 {
		bubble(t, forward.Config{}, func(w *world) {
			d := w.destination()
			cut := forwardtest.FaultDial(w.Net.Dial, forwardtest.Faults{Write: forwardtest.Fault{Cut: at}})
			p := w.publish()
			_, err := w.Server.Source(name).Forward(forward.Destination{URL: d.URL(name), DialContext: cut})
			require.NoError(w, err)
			go p.Send(w.Ctx, media.Messages(-1), 1)
			s := w.Published(d, 2)
			require.NoError(w, s.Recorder().WaitFrames(w.Ctx, 50))
			s.Recorder().Check(w)
			first := d.Sessions()[0].Recorder()
			if first.Report().Frames > 0 {
				first.Check(w)
			}
			require.Len(w, d.Sessions(), 2)
			p.Close()
		})
	}
}

// One that never reads and one that is slow cost the others nothing.
func TestNeighbours(t *testing.T) {
	cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/"+name, "rtmp://b/"+name, "rtmp://c/"+name)}
	bubble(t, cfg, func(w *world) {
		healthy := w.destination()
		stalled := w.Net.NewDestination("b:1935", forwardtest.Script{
			At: map[int]func(*forwardtest.Session){1: (*forwardtest.Session).Stall},
		})
		defer stalled.Close()
		slow := w.Net.NewDestination("c:1935", forwardtest.Script{
			Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: 30_000}},
			Recorder: func() *forwardtest.Recorder { return &forwardtest.Recorder{Gaps: true} },
		})
		defer slow.Close()
		p := w.publish()
		a, c := w.Published(healthy, 1), w.Published(slow, 1)
		began := time.Now()
		messages := collect(media, time.Minute)
		require.NoError(w, p.Send(w.Ctx, media.Messages(time.Minute), 1))
		last := time.Duration(messages[len(messages)-1].Timestamp) * time.Millisecond
		require.Equal(w, last, time.Since(began), "the publisher was held back")
		require.NoError(w, a.Recorder().Wait(w.Ctx, func(r forwardtest.Report) bool { return r.Messages == len(messages) }))
		require.Less(w, time.Since(began)-last, 100*time.Millisecond)
		require.Equal(w, messages, a.Recorder().Messages())
		require.Greater(w, len(stalled.Sessions()), 1)
		c.Recorder().Check(w)
		require.Positive(w, c.Recorder().Report().Gaps)
	})
}

// Without a GOP cache receivers begin with the next keyframe.
func TestNoGOPCache(t *testing.T) {
	cfg := pushing
	cfg.NoGOPCache = true
	bubble(t, cfg, func(w *world) {
		d := w.destination(
			forwardtest.Script{At: map[int]func(*forwardtest.Session){70: (*forwardtest.Session).Reset}},
			forwardtest.Script{})
		p := w.publish()
		go p.Send(w.Ctx, media.Messages(-1), 1)
		player := w.play()
		for _, rec := range []*forwardtest.Recorder{w.Published(d, 2).Recorder(), player.Recorder()} {
			require.NoError(w, rec.WaitFrames(w.Ctx, 200))
			rec.Check(w)
		}
		p.Close()
	})
}
