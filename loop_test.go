package forward

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// A publisher inside the process forwards the hops of its stream.
func TestHopsOfPublisher(t *testing.T) {
	s := newServer(t, Config{})
	for want, hops := range map[error][]string{
		nil:     {"1", "2", "3", "4"},
		ErrLoop: {"1", s.id},
	} {
		p, err := s.Publish(t.Context(), Request{App: "live", Stream: canary, Hops: hops})
		require.ErrorIs(t, err, want)
		if want == nil {
			require.Equal(t, "1,2,3,4,"+s.id, p.Source().req.onward())
			p.Close()
			<-p.Source().Done()
		}
	}
	_, err := s.Publish(t.Context(), Request{App: "live", Stream: canary, Hops: []string{"1", "2", "3", "4", "5"}})
	require.ErrorIs(t, err, ErrLoop)
}

// Properties that are not a list of ours, or are too long for one.
func TestHopsOfConnect(t *testing.T) {
	s := newServer(t, Config{})
	for _, row := range []struct {
		value any // nil: absent
		want  int // hops
		loop  bool
	}{
		{nil, 0, false},
		{"", 0, false},
		{12.0, 0, false},
		{amf.StrictArray{s.id}, 0, false},
		{"a", 1, false},
		{"a,b,c,d", 4, false},
		{"a,b,c,d,e", 5, true},
		{"a," + s.id, 2, true},
		{strings.Repeat("a", maxHopsLen), 1, false},
		{strings.Repeat("a", maxHopsLen+1), 5, true},
		{strings.Repeat(",", maxHopsLen), 6, true},
	} {
		m := &rtmp.Connect{}
		if row.value != nil {
			m.Properties = amf.Object{{Key: hopsProperty, Value: row.value}}
		}
		got := hops(m)
		require.Len(t, got, row.want, "%v", row.value)
		require.Equal(t, row.loop, errors.Is(checkHops(got, s.id), ErrLoop), "%v", row.value)
	}
}

// Only an id that a Server could have made is accepted from connect, and for one publish.
func TestPublishIDOfConnect(t *testing.T) {
	const good = "0123456789abcdef"
	for _, sent := range []any{good, nil, "", 12.0, good[:15], good + "0", strings.ToUpper(good), strings.Repeat("g", 16), strings.Repeat("a", 1<<16)} {
		m := &rtmp.Connect{Properties: amf.Object{{Key: publishProperty, Value: sent}}}
		want := ""
		if sent == good {
			want = good
		}
		require.Equal(t, want, publishID(m), "%.20v", sent)
	}
	c := &conn{rare: &rare{publishID: good}}
	require.Equal(t, good, c.newPublishID())
	next := c.newPublishID()
	require.True(t, isPublishID(next))
	require.NotEqual(t, good, next)
}
