fn main() { println!("{}", mqlb::PROGRAMS.len()); }
