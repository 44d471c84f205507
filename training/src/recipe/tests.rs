use clap::value_parser;

use super::*;

/// A command with an option of each kind.
fn command() -> Command {
    let walk = Command::new("walk")
        .arg(Arg::new("learning_rate").long("learning-rate").default_value("0.5").value_parser(value_parser!(f64)))
        .arg(Arg::new("steps").long("steps").required(true).value_parser(value_parser!(u32)))
        .arg(Arg::new("small").long("small").value_parser(value_parser!(u8).range(1..)))
        .arg(
            Arg::new("road")
                .long("road")
                .value_name("FILE")
                .num_args(1..)
                .action(ArgAction::Append)
                .help("Where to walk."),
        )
        .arg(Arg::new("stop").long("stop").num_args(1..).action(ArgAction::Append).requires("road"))
        .arg(Arg::new("pace").long("pace").default_value("slow").value_parser(["slow", "fast"]))
        .arg(Arg::new("dog").long("dog").action(ArgAction::SetTrue))
        .arg(Arg::new("left").long("left").default_value("a"))
        .arg(Arg::new("right").long("right").conflicts_with("left"));
    Command::new("program").subcommand_required(true).subcommand(walk)
}

fn read_words(recipe: Option<&str>, words: &[&str]) -> Result<Invocation> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let mut arguments: Vec<OsString> = vec!["program".into(), "walk".into()];
    if let Some(recipe) = recipe {
        std::fs::write(&path, recipe).unwrap();
        arguments.extend(["--recipe".into(), path.into_os_string()]);
    }
    arguments.extend(words.iter().map(OsString::from));
    read(&command(), &arguments)
}

fn options(recipe: &str, words: &[&str]) -> ArgMatches {
    let invocation = read_words(Some(recipe), words).unwrap_or_else(|e| panic!("{recipe} {words:?}: {e}"));
    invocation.matches.subcommand_matches("walk").unwrap().clone()
}

fn list(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
}

#[test]
fn keys_are_options() {
    let recipe = "learning_rate = 2e-4 # slow\nsteps = 1_000\nroad = [\"a b\", '--c', \"-\", \"d=e\"]\npace = \"fast\"\ndog = true\nsmall = 0x1F\n";
    let found = options(recipe, &[]);
    assert_eq!(found.get_one("learning_rate"), Some(&2e-4));
    assert_eq!(found.get_one("steps"), Some(&1000u32));
    assert_eq!(found.get_one("small"), Some(&31u8));
    assert_eq!(list(&found, "road"), ["a b", "--c", "-", "d=e"]);
    assert_eq!(found.get_one("pace"), Some(&"fast".to_string()));
    assert!(found.get_flag("dog"));
    // One value stands for a list of it, a whole number for any other.
    let found = options("steps = 1\nroad = \"a\"\nlearning_rate = 1\ndog = false", &[]);
    assert_eq!((list(&found, "road"), found.get_one("learning_rate")), (vec!["a".to_string()], Some(&1.)));
    assert!(!found.get_flag("dog"));
}

#[test]
fn the_command_line_goes_before() {
    let recipe = "steps = 1\nroad = [\"a\", \"b\"]\nright = \"r\"";
    let found = options(recipe, &["--steps", "2", "--road", "c"]);
    assert_eq!((found.get_one("steps"), list(&found, "road")), (Some(&2u32), vec!["c".to_string()]));
    assert_eq!(found.get_one("right"), Some(&"r".to_string()));
    // What an option of the command line excludes is not meant any more.
    let found = options(recipe, &["--left", "l"]);
    assert_eq!((found.get_one("left"), found.get_one::<String>("right")), (Some(&"l".to_string()), None));
    let found = options("steps = 1\nleft = \"l\"", &["--right", "r"]);
    assert_eq!(found.value_source("left"), Some(ValueSource::DefaultValue));
    // What one needs of another may stand in either place.
    assert_eq!(list(&options(recipe, &["--stop", "s"]), "stop"), ["s"]);
    assert!(read_words(Some("steps = 1"), &["--stop", "s"]).is_err());
}

#[test]
fn what_is_wrong_is_named() {
    for (recipe, expected) in [
        ("steps = 1\n\nlearning_rat = 1", "x.toml:3: unknown key \"learning_rat\"; did you mean \"learning_rate\"?"),
        ("learning-rate = 1", "x.toml:1: unknown key \"learning-rate\"; did you mean \"learning_rate\"?"),
        ("zzz = 1", "x.toml:1: unknown key \"zzz\"; `chemtag-train walk --print-recipe` prints those that there are"),
        ("recipe = \"y.toml\"", "x.toml:1: unknown key \"recipe\""),
        (
            "steps = 1\nlearning_rate = \"2e-4\"",
            "x.toml:2: learning_rate: expected a number, found the string \"2e-4\"",
        ),
        ("steps = \"many\"", "x.toml:1: steps: expected a whole number, found the string \"many\""),
        ("steps = [1, 2]", "x.toml:1: steps: expected a whole number, found a list"),
        ("road = [\"a\", 1]", "x.toml:1: road: expected a string, found the number 1"),
        ("dog = 1", "x.toml:1: dog: expected true or false, found the number 1"),
        ("[steps]\nx = 1", "x.toml:1: steps: expected a whole number, found a table"),
        ("left = 2020-02-02", "x.toml:1: left: expected a string, found a date or time"),
        ("\nsteps = 1.5", "x.toml:2: steps: \"1.5\" is refused: invalid digit found in string"),
        ("steps = 1\nsmall = 300", "x.toml:2: small: \"300\" is refused: 300 is not in 1..=255"),
        ("steps = 1\npace = \"fats\"", "x.toml:2: pace: \"fats\" is none of slow, fast"),
        ("steps = 1\nsteps = 2", "x.toml:2: is not TOML: duplicate key"),
        ("steps = \n", "x.toml:1: is not TOML: "),
    ] {
        let error = read_words(Some(recipe), &[]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{recipe:?} gave {error:?}, not {expected:?}");
    }
    let error = read_words(None, &["--recipe", "missing.toml"]).err().unwrap().to_string();
    assert!(error.starts_with("missing.toml: cannot read: "), "{error}");
}

/// What is wrong with the command line itself is told in clap's words, and help is no error of the recipe.
#[test]
fn the_command_lines_errors_stay() {
    let kind = |words: &[&str]| match read_words(Some("steps = 1"), words).err() {
        Some(Error::CommandLine(error)) => Some(error.kind()),
        _ => None,
    };
    assert_eq!(kind(&["--stps", "2"]), Some(ErrorKind::UnknownArgument));
    assert_eq!(kind(&["--steps", "x"]), Some(ErrorKind::ValueValidation));
    assert_eq!(kind(&["--steps", "1", "--steps", "2"]), Some(ErrorKind::ArgumentConflict));
    assert_eq!(kind(&["--help"]), Some(ErrorKind::DisplayHelp));
    assert_eq!(kind(&[]), None);
    let missing = read_words(None, &[]).err().unwrap();
    assert!(matches!(&missing, Error::CommandLine(e) if e.kind() == ErrorKind::MissingRequiredArgument), "{missing}");
    for words in [&["program"][..], &["program", "fly"], &[]] {
        assert!(matches!(
            read(&command(), &words.iter().map(Into::into).collect::<Vec<_>>()),
            Err(Error::CommandLine(_))
        ));
    }
}

#[test]
fn a_printed_recipe_gives_the_same_options() {
    let given = [
        "--steps",
        "+7",
        "--learning-rate",
        ".5e-3",
        "--road",
        "a\"b",
        "c\\d",
        "--dog",
        "--right",
        "r",
        "--small",
        "3",
    ];
    for words in [&[][..], &given] {
        let printing = [words, &["--print-recipe"]].concat();
        let printed = read_words(None, &printing).unwrap();
        assert!(printed.print);
        let table: toml::Table = printed.recipe.parse().unwrap();
        assert_eq!(table.contains_key("steps"), !words.is_empty(), "{}", printed.recipe);
        let again = read_words(Some(&printed.recipe), &["--print-recipe"]).unwrap();
        assert_eq!(again.recipe, printed.recipe);
        let [first, second] = [&printed, &again].map(|i| i.matches.subcommand_matches("walk").unwrap());
        assert_eq!(first.get_one::<f64>("learning_rate"), second.get_one("learning_rate"));
        assert_eq!(first.get_one::<u32>("steps"), second.get_one("steps"));
        assert_eq!(list(first, "road"), list(second, "road"));
        assert_eq!(first.get_flag("dog"), second.get_flag("dog"));
        assert_eq!(first.get_one::<String>("right"), second.get_one("right"));
    }
    let printed = read_words(None, &given).unwrap();
    for line in [
        "steps = 7",
        "learning_rate = 0.0005",
        "# Where to walk.",
        "# left = \"a\"",
        "# stop = [\"VALUE\"]",
        "small = 3",
    ] {
        assert!(printed.recipe.lines().any(|l| l == line), "{line} is not in {}", printed.recipe);
    }
}
