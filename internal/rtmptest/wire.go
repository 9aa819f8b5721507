package rtmptest

import (
	"github.com/rtmp-forward/forward/internal/amf"
)

// The chunks that encoders send after the handshake. Each function builds one chunk
// with exactly the header that its name says (RTMP 1.0, 5.3.1). One byte too many or
// too few garbles everything after it.

// U24 is a number of three bytes.
func U24(n int) string { return string([]byte{byte(n >> 16), byte(n >> 8), byte(n)}) }

// U32 is a number of four bytes.
func U32(n uint32) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }

// Type0 is a chunk with a full header; length is the message's.
func Type0(csid byte, time, length int, typ, stream byte, data string) string {
	return string([]byte{csid}) + U24(time) + U24(length) + string([]byte{typ, stream, 0, 0, 0}) + data
}

// Type1 is a chunk on the message stream of the previous message.
func Type1(csid byte, delta, length int, typ byte, data string) string {
	return string([]byte{1<<6 | csid}) + U24(delta) + U24(length) + string([]byte{typ}) + data
}

// Type2 is a chunk of a message with the length and type of the previous one.
func Type2(csid byte, delta int, data string) string {
	return string([]byte{2<<6 | csid}) + U24(delta) + data
}

// Type3 continues a message, or starts one with the header of the previous one.
func Type3(csid byte, data string) string { return string([]byte{3<<6 | csid}) + data }

// Message is a message in one chunk.
func Message(csid byte, time int, typ, stream byte, data string) string {
	return Type0(csid, time, len(data), typ, stream, data)
}

// SetChunkSize4096 announces chunks of 4096 bytes, as encoders do before media.
const SetChunkSize4096 = "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x10\x00"

// Call is a command in one chunk.
func Call(stream byte, all ...any) string { return Message(3, 0, 20, stream, string(AMF(all...))) }

// Connect is a connect to the app live, with additional properties.
func Connect(props ...amf.Property) string {
	o := amf.Object{{Key: "app", Value: "live"}, {Key: "type", Value: "nonprivate"}, {Key: "tcUrl", Value: "rtmp://h:1935/live"}}
	return SetChunkSize4096 + Call(0, "connect", 1, append(o, props...))
}

// The other commands that most encoders send, for the stream s.
var (
	CreateStream = Call(0, "releaseStream", 2, nil, "s") + Call(0, "FCPublish", 3, nil, "s") + Call(0, "createStream", 4, nil)
	Publish      = Call(1, "publish", 5, nil, "s", "live")
	// Opening is all commands before media.
	Opening = Connect() + CreateStream + Publish
)

// ConnectWith is a connect with exactly these properties.
func ConnectWith(props ...string) string {
	var o amf.Object
	for i := 0; i < len(props); i += 2 {
		o = append(o, amf.Property{Key: props[i], Value: props[i+1]})
	}
	return SetChunkSize4096 + Call(0, "connect", 1, o)
}

// SubMessage is a message inside an aggregate (RTMP 1.0, 7.1.6).
func SubMessage(typ byte, time int, body string) string {
	return string([]byte{typ}) + U24(len(body)) + U24(time) + "\x00\x00\x00\x00" + body + U32(uint32(11+len(body)))
}
