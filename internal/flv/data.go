package flv

// DataTag describes a data message, as far as a relay needs it.
type DataTag struct {
	// OnMetaData says that the message sets the stream's metadata, which late joiners
	// get, or deletes it if Clear is set.
	OnMetaData bool
	// Set says that the message begins with "@setDataFrame", Clear with
	// "@clearDataFrame". Both are for servers, and are not sent to players unchanged.
	Set, Clear bool
	// Head is the offset of the first value: 1 after the format selector of an AMF3
	// message, else 0. Payload is the offset of the value after "@setDataFrame", and
	// equal to Head if there is none.
	//
	// So body[:Head] + body[Payload:] is the message without "@setDataFrame",
	// and body[:Head] + SetDataFrame + body[Payload:] is the message with it.
	Head, Payload int
}

// SetDataFrame is the AMF0 string "@setDataFrame", including its marker.
const SetDataFrame = "\x02\x00\x0d@setDataFrame"

// Data classifies the body of a data message by its first values. The message is of type
// TypeData, or TypeDataAMF3 if amf3 is set. The latter begins with a format selector, 0, and
// continues with AMF0 values (Enhanced RTMP v2, AMF3-encoded Historical Specification
// Clarification); the selector may be missing. If the message does not begin with a complete
// string, only the offsets of the DataTag are set.
func Data(body []byte, amf3 bool) DataTag {
	var d DataTag
	if amf3 && len(body) > 0 && body[0] == 0 {
		d.Head = 1
	}
	d.Payload = d.Head
	name, next := amfString(body, d.Head)
	switch string(name) {
	case "@setDataFrame":
		d.Set, d.Payload = true, next
		name, _ = amfString(body, next)
	case "@clearDataFrame":
		d.Clear = true
		name, _ = amfString(body, next)
	}
	d.OnMetaData = string(name) == "onMetaData"
	return d
}

// amfString returns the string at body[at:] and the offset after it, or nil if there is
// no complete string: AMF0 string (2), long string (12), or AMF3 string (6) after the
// marker that switches to AMF3 (0x11).
func amfString(body []byte, at int) (s []byte, next int) {
	b := body[at:]
	if len(b) < 3 {
		return nil, at
	}
	var head, n int
	switch {
	case b[0] == 0x02:
		head, n = 3, int(b[1])<<8|int(b[2])
	case b[0] == 0x0c && len(b) >= 5:
		if b[1] != 0 {
			return nil, at // longer than any message
		}
		head, n = 5, int(b[2])<<16|int(b[3])<<8|int(b[4])
	case b[0] == 0x11 && b[1] == 0x06 && b[2] < 0x80 && b[2]&1 == 1:
		// All relevant names have a length of one byte. References are not resolved.
		head, n = 3, int(b[2]>>1)
	default:
		return nil, at
	}
	if len(b) < head+n {
		return nil, at
	}
	return b[head : head+n], at + head + n
}
