package flv

// DataTag is what a data message is, as far as a relay has to know.
type DataTag struct {
	// OnMetaData: the message sets, or with Clear deletes, the stream's
	// metadata, which late joiners get.
	OnMetaData bool
	// Set: it begins with "@setDataFrame", Clear: with "@clearDataFrame".
	// Both are for servers; players get no such message as it is.
	Set, Clear bool
	// Head is the offset of the first value: 1 after the format selector of an AMF3
	// message, else 0. Payload is the offset of the value after "@setDataFrame", and
	// equal to Head if there is none.
	//
	// So body[:Head] + body[Payload:] is the message without "@setDataFrame",
	// and body[:Head] + SetDataFrame + body[Payload:] is the message with it.
	Head, Payload int
}

// SetDataFrame is the AMF0 string "@setDataFrame", marker included.
const SetDataFrame = "\x02\x00\x0d@setDataFrame"

// Data looks at the first values of a data message's body: TypeData or, with
// amf3, TypeDataAMF3, which begins with a format selector, 0, and goes on with
// AMF0 values (Enhanced RTMP v2, AMF3-encoded Historical Specification
// Clarification); a missing selector is tolerated. A message that does not
// begin with a string, or ends inside it, is a DataTag with the offsets alone.
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
		// All names that matter have a length of one byte; references would
		// need the string they refer to.
		head, n = 3, int(b[2]>>1)
	default:
		return nil, at
	}
	if len(b) < head+n {
		return nil, at
	}
	return b[head : head+n], at + head + n
}
