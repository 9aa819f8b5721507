package forward

// Measured is for tests outside the package, of what imports it.
var Measured = measured
