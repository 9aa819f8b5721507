package forward

// Destination is where a stream is pushed.
type Destination struct {
	URL string
}
