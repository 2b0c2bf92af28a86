fn main() { println!("{:#?}", underpass_drivers::doctor::check()); }
