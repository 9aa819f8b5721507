package forward

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// inAggregate is a message in an aggregate (RTMP 1.0, 7.1.6).
func inAggregate(typ byte, time int, body string) string {
	return string([]byte{typ}) + u24(len(body)) + u24(time) + "\x00\x00\x00\x00" + body + u32(uint32(11+len(body)))
}

// clearFrame deletes what setFrame has set.
const clearFrame = "\x02\x00\x0f@clearDataFrame"

// What a publisher's data messages become for destinations and for players.
func TestDataMessages(t *testing.T) {
	const v, d = TagVideo, TagData
	const name, cue = "\x02\x00\x0aonMetaData", "\x02\x00\x0aonCuePoint\x05"
	type messages = []forwardtest.Message
	for _, c := range []struct {
		name  string
		media string
		push  messages
		play  messages
		late  messages // what a player gets that comes behind all that
	}{
		{"AMF3 in an aggregate",
			messageOf(4, 1000, 22, 1, inAggregate(9, 500, h264Key)+inAggregate(15, 510, "\x00"+onMeta)+inAggregate(15, 520, "\x00"+cue)+inAggregate(15, 530, "\x00")+inAggregate(9, 540, h264Inter)),
			messages{got(v, 1000, h264Key), got(d, 1010, setFrame+onMeta), got(d, 1020, cue), got(v, 1040, h264Inter)},
			messages{got(v, 1000, h264Key), got(d, 1010, onMeta), got(d, 1020, cue), got(v, 1040, h264Inter)},
			messages{got(v, 1000, h264Key), got(d, 1010, onMeta), got(d, 1020, cue), got(v, 1040, h264Inter)}},
		{"aggregate in an aggregate, and what nobody knows",
			messageOf(4, 0, 22, 1, inAggregate(22, 0, inAggregate(9, 0, h264Key))+inAggregate(20, 0, cue)+inAggregate(9, 0, h264Key)),
			messages{got(v, 0, h264Key)}, messages{got(v, 0, h264Key)}, messages{got(v, 0, h264Key)}},
		{"@clearDataFrame is for servers",
			messageOf(4, 0, 18, 1, setFrame+onMeta) + messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 20, 18, 1, clearFrame+name) +
				messageOf(4, 40, 9, 1, h264Key) + messageOf(4, 60, 9, 1, h264Inter) + messageOf(4, 60, 18, 1, clearFrame),
			messages{got(d, 0, setFrame+onMeta), got(v, 0, h264Header), got(v, 0, h264Key), got(d, 20, clearFrame+name), got(v, 40, h264Key), got(v, 60, h264Inter), got(d, 60, clearFrame)},
			messages{got(d, 0, onMeta), got(v, 0, h264Header), got(v, 0, h264Key), got(v, 40, h264Key), got(v, 60, h264Inter)},
			messages{got(v, 40, h264Header), got(v, 40, h264Key), got(v, 60, h264Inter)}},
		{"@clearDataFrame as AMF3, in an aggregate, behind @setDataFrame; metadata again",
			messageOf(4, 0, 18, 1, onMeta) + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 20, 15, 1, "\x00"+clearFrame+name) +
				messageOf(4, 20, 22, 1, inAggregate(15, 0, "\x00"+clearFrame+name)+inAggregate(18, 0, clearFrame)) + messageOf(4, 20, 18, 1, setFrame+clearFrame+name) +
				messageOf(4, 40, 9, 1, h264Key) + messageOf(4, 60, 18, 1, onMeta),
			messages{got(d, 0, setFrame+onMeta), got(v, 0, h264Key), got(d, 20, clearFrame+name), got(d, 20, clearFrame+name), got(d, 20, clearFrame), got(d, 20, setFrame+clearFrame+name),
				got(v, 40, h264Key), got(d, 60, setFrame+onMeta)},
			messages{got(d, 0, onMeta), got(v, 0, h264Key), got(v, 40, h264Key), got(d, 60, onMeta)},
			messages{got(v, 40, h264Key), got(d, 60, onMeta)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(Destination{URL: "rtmp://dest/app/key"})})
				defer s.Close()
				nc := encoder(t, s, usual)
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
					require.Equal(t, Message{want.Type, want.Timestamp, want.Payload}, m)
				}
			})
		})
	}
}
