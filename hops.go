package forward

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// maxHops is how many Servers a stream may have passed through before it is refused.
const maxHops = 4

// hopsProperty is a property of our own in the connect command of a Forwarder:
// the ids of the Servers that the stream has passed through, separated by commas.
// Other servers ignore properties that they do not know (RTMP 1.0, 7.2.1.1 leaves the
// set open). It is a string because every AMF reader can skip one.
const (
	hopsProperty = "forwardHops"
	maxHopsLen   = 256
)

// passedBefore is the description with which a Server refuses a stream that loops.
const passedBefore = "The stream has already passed through this server."

// publishProperty is another one: Request.PublishID.
const publishProperty = "forwardPublish"

// publishID returns the id of a stream's publish as reported in connect, empty if it has
// none or not one of ours.
func publishID(m *rtmp.Connect) string {
	id, _ := m.Properties.GetString(publishProperty)
	if !isPublishID(id) {
		return ""
	}
	return id
}

// isPublishID reports whether id is one that randomID could have made.
func isPublishID(id string) bool {
	return len(id) == 16 && strings.Trim(id, "0123456789abcdef") == ""
}

// hops returns the Servers that a stream has passed through, as reported in connect.
func hops(m *rtmp.Connect) []string {
	s, _ := m.Properties.GetString(hopsProperty)
	switch {
	case s == "":
		return nil
	case len(s) > maxHopsLen:
		return make([]string, maxHops+1)
	}
	// One hop more than allowed is enough to refuse the stream.
	return strings.SplitN(s, ",", maxHops+2)
}

// checkHops refuses a stream that has passed through the Server with that id, or through
// too many.
func checkHops(hops []string, id string) error {
	switch {
	case slices.Contains(hops, id):
		return fmt.Errorf("%w: it has passed through this server", ErrLoop)
	case len(hops) > maxHops:
		return fmt.Errorf("%w: it has passed through more than %d servers", ErrLoop, maxHops)
	}
	return nil
}
