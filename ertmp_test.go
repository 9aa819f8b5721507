package forward

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// packets are messages of one form, as they are on the wire.
type packets []forwardtest.Message

func video(body string) forwardtest.Message {
	return forwardtest.Message{Type: TagVideo, Payload: []byte(body)}
}

func audio(body string) forwardtest.Message {
	return forwardtest.Message{Type: TagAudio, Payload: []byte(body)}
}

// sized is a track with its id and size, as all but OneTrack have it.
func sized(id byte, body string) string {
	return string([]byte{id, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}) + body
}

const (
	cts  = "\x00\x00\x28" // 40 ms
	back = "\xff\xff\xd8" // -40 ms
	// amfColorInfo is an AMF name and value.
	amfColorInfo = "\x02\x00\x09colorInfo\x03\x00\x0bcolorConfig\x03\x00\x08bitDepth\x00\x40\x24\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x09"
)

// form is one way to put media into messages. cfg and data stand for what
// the codec has to say.
type form struct {
	name, section string
	header        func(cfg string) packets
	key, inter    func(data string) packets
}

// videoForm is a form with one message of each kind.
func videoForm(name, section, header, key, inter string) form {
	one := func(head string) func(string) packets {
		return func(rest string) packets { return packets{video(head + rest)} }
	}
	f := form{name, section, one(header), one(key), one(inter)}
	if header == "" {
		f.header = func(string) packets { return nil }
	}
	return f
}

// audioForm is a form of audio, beside legacy H.264.
func audioForm(name, section string, headers []string, frames ...string) form {
	all := func(video forwardtest.Message, heads []string, rest string) packets {
		p := packets{video}
		for _, h := range heads {
			p = append(p, audio(h+rest))
		}
		return p
	}
	return form{name, section,
		func(cfg string) packets { return all(video("\x17\x00\x00\x00\x00"+cfg), headers, cfg) },
		func(data string) packets { return all(video("\x17\x01"+cts+data), frames, data) },
		func(data string) packets { return all(video("\x27\x01"+cts+data), frames, data) },
	}
}

// All sections are of Enhanced RTMP v2 unless FLV is said.
var forms = []form{
	videoForm("HEVC with legacy id 12", "FLV, E.4.3.1, extended", "\x1c\x00\x00\x00\x00", "\x1c\x01"+cts, "\x2c\x01"+back),
	videoForm("hvc1", "ExVideoTagBody, CodedFrames", "\x90hvc1", "\x91hvc1"+cts, "\xa1hvc1"+back),
	videoForm("hvc1 X", "ExVideoTagBody, CodedFramesX", "\x90hvc1", "\x93hvc1", "\xa3hvc1"),
	videoForm("avc1", "ExVideoTagBody, CodedFrames", "\x90avc1", "\x91avc1"+cts, "\xb1avc1"+back),
	videoForm("vvc1", "ExVideoTagBody, CodedFrames", "\x90vvc1", "\x91vvc1"+cts, "\xa1vvc1"+back),
	videoForm("av01", "ExVideoTagBody, CodedFrames", "\x90av01", "\x91av01", "\xa1av01"),
	videoForm("vp09", "ExVideoTagBody, CodedFrames", "\x90vp09", "\x91vp09", "\xa1vp09"),
	videoForm("vp08", "ExVideoTagBody, CodedFrames", "", "\x91vp08", "\xa1vp08"),
	videoForm("generated keyframe", "VideoFrameType", "\x90hvc1", "\xc3hvc1", "\xa3hvc1"),
	videoForm("MPEG2TSSequenceStart", "ExVideoTagBody, Mpeg2TsSequenceStart", "\x95av01", "\x91av01", "\xa1av01"),
	videoForm("unknown FourCC", "ExVideoTagHeader, VideoFourCc", "\x90zzzz", "\x91zzzz", "\xa1zzzz"),
	videoForm("unknown packet type", "VideoPacketType, reserved", "\x90hvc1", "\x93hvc1", "\xa8hvc1"),
	{"Metadata", "Metadata Frame, colorInfo",
		func(cfg string) packets {
			return packets{video("\x90hvc1" + cfg), video("\xd4hvc1" + amfColorInfo + cfg)}
		},
		func(data string) packets { return packets{video("\x93hvc1" + data)} },
		func(data string) packets { return packets{video("\xa3hvc1" + data)} },
	},
	{"commands and sequence end", "VideoCommand, SequenceEnd",
		func(cfg string) packets { return packets{video("\x90hvc1" + cfg)} },
		func(data string) packets { return packets{video("\x93hvc1" + data)} },
		func(data string) packets {
			return packets{video("\xd1\x00"), video("\xa3hvc1" + data), video("\xd1\x01"), video("\x92hvc1")}
		},
	},
	{"OneTrack", "AvMultitrackType.OneTrack",
		func(cfg string) packets {
			return packets{video("\x96\x00avc1\x00" + cfg), video("\x96\x00hvc1\x01" + cfg)}
		},
		func(data string) packets {
			return packets{video("\x96\x01avc1\x00" + cts + data), video("\x96\x03hvc1\x01" + data)}
		},
		func(data string) packets {
			return packets{video("\xa6\x01avc1\x00" + cts + data), video("\xa6\x03hvc1\x01" + data)}
		},
	},
	{"a second track beside legacy H.264", "AvMultitrackType.OneTrack",
		func(cfg string) packets {
			return packets{video("\x17\x00\x00\x00\x00" + cfg), video("\x96\x00hvc1\x01" + cfg)}
		},
		func(data string) packets {
			return packets{video("\x17\x01" + cts + data), video("\x96\x03hvc1\x01" + data)}
		},
		func(data string) packets {
			// The second track has its keyframes where it likes.
			return packets{video("\x27\x01" + cts + data), video("\x96\x03hvc1\x01" + data)}
		},
	},
	{"ManyTracks", "AvMultitrackType.ManyTracks",
		func(cfg string) packets { return packets{video("\x96\x10avc1" + sized(0, cfg) + sized(1, cfg))} },
		func(data string) packets {
			return packets{video("\x96\x11avc1" + sized(0, cts+data) + sized(1, back+data))}
		},
		func(data string) packets { return packets{video("\xa6\x13avc1" + sized(0, data) + sized(1, data))} },
	},
	{"ManyTracksManyCodecs", "AvMultitrackType.ManyTracksManyCodecs",
		func(cfg string) packets {
			return packets{video("\x96\x20avc1" + sized(0, cfg) + "av01" + sized(7, cfg))}
		},
		func(data string) packets {
			return packets{video("\x96\x21avc1" + sized(0, cts+data) + "av01" + sized(7, data))}
		},
		func(data string) packets {
			return packets{video("\xa6\x21avc1" + sized(0, cts+data) + "av01" + sized(7, data))}
		},
	},
	videoForm("ModEx, TimestampOffsetNano", "VideoPacketModExType",
		"\x97\x02\x00\x00\x00\x00hvc1", "\x97\x02\x0f\x42\x3f\x01hvc1"+cts, "\xa7\x02\x00\x00\x01\x03hvc1"),
	videoForm("ModEx, unknown types in a row", "VideoPacketModExType",
		"\x97\x00\xaa\x57\x01\xbb\xbb\x60hvc1", "\x97\x00\xaa\x57\x01\xbb\xbb\x63hvc1", "\xa7\x00\xaa\xf3hvc1"),
	videoForm("ModEx, 16 bits of size", "ExVideoTagHeader, modExDataSize",
		"\x97\xff\x01\x00"+strings.Repeat("m", 257)+"\x00hvc1", "\x97\xff\x00\xff"+strings.Repeat("m", 256)+"\x03hvc1", "\xa7\xff\x01\x00"+strings.Repeat("m", 257)+"\x03hvc1"),
	{"ModEx before multitrack", "ExVideoTagHeader",
		func(cfg string) packets {
			return packets{video("\x97\x00\xaa\x56\x10hvc1" + sized(0, cfg) + sized(1, cfg))}
		},
		func(data string) packets {
			return packets{video("\x97\x02\x00\x00\x01\x06\x13hvc1" + sized(0, data) + sized(1, data))}
		},
		func(data string) packets {
			return packets{video("\xa7\x02\x00\x00\x01\x06\x13hvc1" + sized(0, data) + sized(1, data))}
		},
	},

	audioForm("Opus", "ExAudioTagBody", []string{"\x90Opus"}, "\x91Opus"),
	audioForm("fLaC", "ExAudioTagBody", []string{"\x90fLaC"}, "\x91fLaC"),
	audioForm("mp4a", "ExAudioTagBody", []string{"\x90mp4a"}, "\x91mp4a"),
	audioForm("ac-3", "ExAudioTagBody", nil, "\x91ac-3"),
	audioForm("ec-3", "ExAudioTagBody", nil, "\x91ec-3"),
	audioForm(".mp3", "ExAudioTagBody", nil, "\x91.mp3"),
	audioForm("MultichannelConfig", "MultichannelConfigOrder", []string{"\x90Opus", "\x94Opus\x01\x02\x00\x01"}, "\x91Opus"),
	audioForm("audio SequenceEnd", "AudioPacketType", []string{"\x90Opus"}, "\x91Opus", "\x92Opus"),
	audioForm("audio OneTrack", "AvMultitrackType.OneTrack", []string{"\xaf\x00", "\x95\x00Opus\x01"}, "\xaf\x01", "\x95\x01Opus\x01"),
	audioForm("audio ModEx", "AudioPacketModExType", []string{"\x97\x02\x00\x00\x00\x00Opus"}, "\x97\x02\x00\x00\x01\x01Opus", "\x97\x00\xaa\xf1Opus"),
	audioForm("audio, unknown FourCC", "AudioFourCc", []string{"\x90zzzz"}, "\x91zzzz"),
	{"audio ManyTracks", "AvMultitrackType.ManyTracks",
		func(cfg string) packets {
			return packets{video("\x90hvc1" + cfg), audio("\x95\x10Opus" + sized(0, cfg) + sized(1, cfg))}
		},
		func(data string) packets {
			return packets{video("\x93hvc1" + data), audio("\x95\x11Opus" + sized(0, data) + sized(1, data))}
		},
		func(data string) packets {
			return packets{video("\xa3hvc1" + data), audio("\x95\x11Opus" + sized(0, data) + sized(1, data))}
		},
	},
	{"audio ManyTracksManyCodecs", "AvMultitrackType.ManyTracksManyCodecs",
		func(cfg string) packets {
			return packets{video("\x90hvc1" + cfg), audio("\x95\x20mp4a" + sized(0, cfg) + "Opus" + sized(1, cfg))}
		},
		func(data string) packets {
			return packets{video("\x93hvc1" + data), audio("\x95\x21mp4a" + sized(0, data) + "Opus" + sized(1, data))}
		},
		func(data string) packets {
			return packets{video("\xa3hvc1" + data), audio("\x95\x21mp4a" + sized(0, data) + "Opus" + sized(1, data))}
		},
	},
}

// trackMaps is onMetaData with what Enhanced RTMP adds to it.
func trackMaps(cfg string) forwardtest.Message {
	return forwardtest.Message{Type: TagData, Payload: []byte("\x02\x00\x0aonMetaData\x08\x00\x00\x00\x01" +
		"\x00\x13videoTrackIdInfoMap\x03\x00\x011\x03\x00\x05width\x00\x40\x94\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x09" +
		"\x00\x03cfg\x02\x00" + string(rune(len(cfg))) + cfg + "\x00\x00\x09")}
}

// pushed is what a destination gets for a message.
func pushed(m forwardtest.Message) forwardtest.Message {
	if m.Type == TagData {
		m.Payload = append([]byte("\x02\x00\x0d@setDataFrame"), m.Payload...)
	}
	return m
}

func pushedAll(in []forwardtest.Message) (out []forwardtest.Message) {
	for _, m := range in {
		out = append(out, pushed(m))
	}
	return out
}

// Each form goes through a whole server: to a destination and a player that are
// there from the start, to ones that come late, and to one that is too slow
// and goes on at a keyframe, behind new headers.
func TestEnhancedForms(t *testing.T) {
	const (
		frames = 60
		every  = 10 // frames a GOP
		change = 30 // where the headers change
		pad    = 6 << 10
	)
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				gate := make(chan struct{})
				slow := network.NewDestination("slow:1935", forwardtest.Script{
					At: map[int]func(*forwardtest.Session){12: func(*forwardtest.Session) { <-gate }},
				})
				defer slow.Close()
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				late := network.NewDestination("late:1935")
				defer late.Close()
				s := newServer(t, Config{MaxLatency: time.Second, MergeWindow: -1, Dial: network.Dial, Resolver: to(
					Destination{URL: "rtmp://slow/app/" + canary}, Destination{URL: "rtmp://dest/app/" + canary})})
				defer s.Close()
				client := forwardtest.Client{Dial: forwardtest.Direct(s)}
				pub, err := client.Publish(t.Context())
				require.NoError(t, err)
				player, err := client.Play(t.Context(), nil)
				require.NoError(t, err)
				synctest.Wait()

				var in []forwardtest.Message // all that is sent
				var force packets            // the headers in force at the end
				gops := map[int]int{}        // where GOPs begin in it, to the frame
				send := func(ms int, all packets) {
					for _, m := range all {
						m.Timestamp = uint32(ms)
						require.NoError(t, pub.WriteMessage(m))
						in = append(in, m)
					}
				}
				headers := func(ms int, cfg string) {
					force = append(packets{trackMaps(cfg)}, f.header(cfg)...)
					send(ms, force)
				}
				headers(0, "one")
				var joined *forwardtest.Player
				for n := range frames {
					if n == change {
						headers(n*100, "other")
					}
					data := fmt.Sprintf("%04d", n) + strings.Repeat("d", pad)
					if n%every == 0 {
						gops[len(in)] = n
						send(n*100, f.key(data))
					} else {
						send(n*100, f.inter(data))
					}
					time.Sleep(100 * time.Millisecond)
					if n == frames-5 {
						joined, err = client.Play(t.Context(), nil)
						require.NoError(t, err)
						_, err = s.Source("live/stream").Forward(Destination{URL: "rtmp://late/app/" + canary})
						require.NoError(t, err)
						synctest.Wait()
						close(gate)
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()

				require.Equal(t, in, player.Recorder().Messages())
				require.Equal(t, pushedAll(in), dest.Sessions()[0].Recorder().Messages())

				last := 0 // where the last GOP begins
				for at, n := range gops {
					if n == frames-every {
						last = at
					}
				}
				require.Equal(t, payloads(force, in[last:]), payloads(joined.Recorder().Messages()))
				got := late.Sessions()[0].Recorder().Messages()
				require.Equal(t, payloads(pushedAll(force), pushedAll(in[last:])), payloads(got))
				require.Equal(t, pushedAll(in[last:]), got[len(force):], "with their times")

				got = slow.Sessions()[0].Recorder().Messages()
				n := 0 // received before it was too slow
				for n < len(got) && n < len(in) && string(got[n].Payload) == string(pushed(in[n]).Payload) {
					n++
				}
				require.Greater(t, n, 10)
				require.Less(t, n, len(in)/2, "it was too slow")
				require.Equal(t, payloads(pushedAll(force), pushedAll(in[last:])), payloads(got[n:]))
				require.Len(t, slow.Sessions(), 1)

				pub.Close()
				player.Close()
				joined.Close()
			})
		})
	}
}

// payloads are the bodies of messages, shortened so that a difference can be
// read.
func payloads(all ...[]forwardtest.Message) (out []string) {
	for _, part := range all {
		for _, m := range part {
			out = append(out, fmt.Sprintf("%d %.64q %d", m.Type, m.Payload, len(m.Payload)))
		}
	}
	return out
}
