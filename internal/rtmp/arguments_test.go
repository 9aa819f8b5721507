package rtmp

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// AMF0 values, encoded as in a command.
const (
	amfNull      = "\x05"
	amfUndefined = "\x06"
	amfSeven     = "\x00\x40\x1c\x00\x00\x00\x00\x00\x00"
	amfLive      = "\x02\x00\x04live"
	amfObject    = "\x03\x00\x00\x09"
	amfArray     = "\x08\x00\x00\x00\x00\x00\x00\x09"
	amfXML       = "\x0f\x00\x00\x00\x04live"
)

// The name of a publish or play is argument 1. A later string, such as the type "live", is
// not taken as the name.
func TestServerTakesTheNameFromItsPlace(t *testing.T) {
	for _, command := range []struct{ name, bytes, code string }{
		{"publish", "\x02\x00\x07publish", "NetStream.Publish.BadName"},
		{"play", "\x02\x00\x04play", "NetStream.Play.StreamNotFound"},
	} {
		for _, c := range []struct{ name, object, value string }{
			{"null", amfNull, amfNull},
			{"undefined", amfNull, amfUndefined},
			{"number", amfNull, amfSeven},
			{"object", amfNull, amfObject},
			{"array", amfNull, amfArray},
			{"XML", amfNull, amfXML},
			{"null of AMF3", amfNull, "\x11\x01"},
			{"undefined of AMF3", amfNull, "\x11\x00"},
			{"integer of AMF3", amfNull, "\x11\x04\x07"},
			{"byte array of AMF3", amfNull, "\x11\x0c\x09live"},
			{"null behind an object", amfObject, amfNull},
			{"null behind undefined", amfUndefined, amfNull},
			{"number in the command object's place too", amfSeven, amfSeven},
		} {
			for form, head := range map[string]string{"": "", ", AMF3": "\x00"} {
				t.Run(command.name+" "+c.name+form, func(t *testing.T) {
					typ := uint8(chunk.TypeCommand)
					if head != "" {
						typ = chunk.TypeCommandAMF3
					}
					in := message(typ, 1, []byte(head+command.bytes+amfSeven+c.object+c.value+amfLive))
					h := &handler{}
					err := serve(h, connected, in)
					var st *StatusError
					require.True(t, errors.As(err, &st), "%v", err)
					require.Equal(t, command.code, st.Code)
					require.Equal(t, "The stream's name is not a string.", st.Description)
					require.Equal(t, []string{"onStatus@1 0 null error:" + command.code}, h.log[len(connectLog):])
				})
			}
		}
	}
}
