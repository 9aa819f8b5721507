package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/format/flv"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/testdata"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m.Run)) }

type clip struct{ av.Demuxer }

func (clip) Close() error { return nil }

func openClip() (av.DemuxCloser, error) {
	return clip{flv.NewDemuxer(bytes.NewReader(testdata.H264AAC))}, nil
}

// recorder records what is written to it, with the times.
type recorder struct {
	t       *testing.T
	began   time.Time // when timestamp 0 was due; zero: the next packet sets it
	headers int
	packets []av.Packet
	end     func(n int) error
}

func (r *recorder) WriteHeader(streams []av.CodecData) error {
	require.Len(r.t, streams, 2)
	r.headers++
	return nil
}

func (r *recorder) WritePacket(pkt av.Packet) error {
	if r.began.IsZero() {
		r.began = time.Now().Add(-pkt.Time)
	}
	require.Equal(r.t, pkt.Time, time.Since(r.began), "written in its time")
	r.packets = append(r.packets, pkt)
	return r.end(len(r.packets))
}

func (r *recorder) WriteTrailer() error { return nil }

func TestRoundsFollowOnEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clip, _ := openClip()
		n := 0
		for _, err := clip.ReadPacket(); err != io.EOF; _, err = clip.ReadPacket() {
			n++
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		r := &recorder{t: t, end: func(i int) error {
			if i == 3*n {
				cancel(enough)
			}
			return nil
		}}
		require.Equal(t, enough, Play(ctx, r, openClip))
		require.Len(t, r.packets, 3*n)
		require.Equal(t, 1, r.headers)
		require.Zero(t, r.packets[0].Time)

		var last [2]time.Duration
		for i, pkt := range r.packets {
			if i >= n {
				require.Equal(t, r.packets[i-n].Data, pkt.Data)
			}
			if step := pkt.Time - last[pkt.Idx]; i >= 2 {
				require.True(t, step > 0 && step < 200*time.Millisecond, "packet %d of stream %d: step of %v", i, pkt.Idx, step)
			}
			last[pkt.Idx] = pkt.Time
		}
		require.Equal(t, r.packets[n].Time, r.packets[2*n].Time-r.packets[n].Time, "rounds are of one length")
	})
}

func TestAfterADelayTheStreamGoesOnFromNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{t: t}
		r.end = func(i int) error {
			switch i {
			case 10:
				<-time.After(time.Hour)
				r.began = time.Time{}
			case 20:
				return io.ErrShortWrite
			}
			return nil
		}
		require.Equal(t, io.ErrShortWrite, Play(t.Context(), r, openClip))
	})
}

func TestWhatCannotBePlayedIsAnError(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		open func() (av.DemuxCloser, error)
		want string
	}{
		"no file":    {func() (av.DemuxCloser, error) { return nil, broken }, "broken"},
		"no clip":    {func() (av.DemuxCloser, error) { return clip{flv.NewDemuxer(bytes.NewReader(nil))}, nil }, "EOF"},
		"no packets": {func() (av.DemuxCloser, error) { return clip{empty{}}, nil }, "nothing to play"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{t: t, end: func(int) error { return nil }}
			require.ErrorContains(t, Play(t.Context(), r, c.open), c.want)
		})
	}
}

// empty has streams and no packets.
type empty struct{}

func (empty) Streams() ([]av.CodecData, error) {
	c, _ := openClip()
	return c.Streams()
}

func (empty) ReadPacket() (av.Packet, error) { return av.Packet{}, io.EOF }
