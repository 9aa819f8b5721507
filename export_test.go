package forward

// Measured is for tests outside the package, of what imports it.
var Measured = measured

// WithDefaults is for the test that compares the documents with the code.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// WithDefaults is as that of Config.
func (d Destination) WithDefaults() Destination { return d.withDefaults() }
