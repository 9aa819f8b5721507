package e2e

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// How destinations and players receive a publisher's data messages.
func TestDataMessages(t *testing.T) {
	const v, d = forward.TagVideo, forward.TagData
	const name, cue = "\x02\x00\x0aonMetaData", "\x02\x00\x0aonCuePoint\x05"
	type messages = []forwardtest.Message
	for _, c := range []struct {
		name  string
		media string
		push  messages
		play  messages
		late  messages // for a player that joins afterwards
	}{
		{"AMF3 in an aggregate",
			messageOf(4, 1000, 22, 1, subMessage(9, 500, h264Key)+subMessage(15, 510, "\x00"+onMetaData)+subMessage(15, 520, "\x00"+cue)+subMessage(15, 530, "\x00")+subMessage(9, 540, h264Inter)),
			messages{got(v, 1000, h264Key), got(d, 1010, setDataFrame+onMetaData), got(d, 1020, cue), got(v, 1040, h264Inter)},
			messages{got(v, 1000, h264Key), got(d, 1010, onMetaData), got(d, 1020, cue), got(v, 1040, h264Inter)},
			messages{got(v, 1000, h264Key), got(d, 1010, onMetaData), got(d, 1020, cue), got(v, 1040, h264Inter)}},
		{"aggregate in an aggregate, and unknown types",
			messageOf(4, 0, 22, 1, subMessage(22, 0, subMessage(9, 0, h264Key))+subMessage(20, 0, cue)+subMessage(9, 0, h264Key)),
			messages{got(v, 0, h264Key)}, messages{got(v, 0, h264Key)}, messages{got(v, 0, h264Key)}},
		{"@clearDataFrame is for servers",
			messageOf(4, 0, 18, 1, setDataFrame+onMetaData) + messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 20, 18, 1, clearDataFrame+name) +
				messageOf(4, 40, 9, 1, h264Key) + messageOf(4, 60, 9, 1, h264Inter) + messageOf(4, 60, 18, 1, clearDataFrame),
			messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Header), got(v, 0, h264Key), got(d, 20, clearDataFrame+name), got(v, 40, h264Key), got(v, 60, h264Inter), got(d, 60, clearDataFrame)},
			messages{got(d, 0, onMetaData), got(v, 0, h264Header), got(v, 0, h264Key), got(v, 40, h264Key), got(v, 60, h264Inter)},
			messages{got(v, 40, h264Header), got(v, 40, h264Key), got(v, 60, h264Inter)}},
		{"@clearDataFrame as AMF3, in an aggregate, after @setDataFrame; metadata again",
			messageOf(4, 0, 18, 1, onMetaData) + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 20, 15, 1, "\x00"+clearDataFrame+name) +
				messageOf(4, 20, 22, 1, subMessage(15, 0, "\x00"+clearDataFrame+name)+subMessage(18, 0, clearDataFrame)) + messageOf(4, 20, 18, 1, setDataFrame+clearDataFrame+name) +
				messageOf(4, 40, 9, 1, h264Key) + messageOf(4, 60, 18, 1, onMetaData),
			messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Key), got(d, 20, clearDataFrame+name), got(d, 20, clearDataFrame+name), got(d, 20, clearDataFrame), got(d, 20, setDataFrame+clearDataFrame+name),
				got(v, 40, h264Key), got(d, 60, setDataFrame+onMetaData)},
			messages{got(d, 0, onMetaData), got(v, 0, h264Key), got(v, 40, h264Key), got(d, 60, onMetaData)},
			messages{got(v, 40, h264Key), got(d, 60, onMetaData)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(forward.Destination{URL: "rtmp://dest/app/key"})})
				defer s.Close()
				nc := encoder(t, s, opening)
				play := func() *forwardtest.Recorder {
					player, err := forwardtest.Client{URL: "rtmp://h/live/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
					require.NoError(t, err)
					t.Cleanup(func() { player.Close() })
					synctest.Wait()
					return player.Recorder()
				}
				player := play()
				sub := s.Source("live/s").Subscribe(t.Context())
				defer sub.Close()
				_, err := nc.Write([]byte(c.media))
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, lines(c.push), lines(dest.Sessions()[0].Recorder().Messages()))
				require.Equal(t, lines(c.play), lines(player.Messages()))
				require.Equal(t, lines(c.late), lines(play().Messages()))
				for _, want := range c.play {
					m, err := sub.Next()
					require.NoError(t, err)
					require.Equal(t, forward.Message{Type: want.Type, Timestamp: want.Timestamp, Payload: want.Payload}, m)
				}
			})
		})
	}
}
